"""The agent: configurator, perception, world model, cost, actor and memory (LeCun 2022, section 3), each usable by itself."""
