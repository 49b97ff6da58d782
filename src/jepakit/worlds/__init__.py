"""What a world model lives in: problems, planners, environments, and the agent that acts."""
