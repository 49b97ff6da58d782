"""What memory says of a wind that nobody sees."""

import pytest
import torch

pytest.importorskip("gymnasium")
from jepakit.core.state import State
from jepakit.errors import UserError
from jepakit.worlds.acting import run_episodes
from jepakit.worlds.agent.belief import Belief
from tests.worlds.agent.exact_worlds import WIND, Windy, agent, exact_model, task

RIGHT, LEFT, NONE = ([WIND, 0.0], [-WIND, 0.0], [0.0, 0.0])


def believed(*winds, noise=0.0):
    """After these winds were met by one episode, on a point that stays at 0 before each."""
    model, _ = exact_model(windy=True)
    belief, random = Belief(model, model.futures(), 1), torch.Generator().manual_seed(0)
    for wind in winds:
        after = torch.tensor([wind]) + noise * torch.randn(1, 2, generator=random)
        belief.update(State(torch.zeros(1, 2)), torch.zeros(1, 2), after)
    return belief.shares()[0]


def test_at_first_all_are_alike():
    assert believed().tolist() == [0.5, 0.5]


def test_one_step_tells_and_many_doubtful_ones_do_not():
    assert believed(RIGHT)[0] > 0.999
    assert believed(LEFT)[1] > 0.999
    assert believed(*[NONE] * 30).tolist() == pytest.approx([0.5, 0.5])
    assert believed(NONE, NONE, LEFT, NONE)[1] > 0.9


def test_it_is_bayes_rule_with_the_best_errors_as_variance():
    winds = [[0.1, 0.2], [-0.2, 0.1], [0.25, -0.1]]
    met = torch.tensor(winds)
    errors = torch.stack([(met - torch.tensor(wind)).square().mean(1) for wind in (RIGHT, LEFT)], 1)
    expected = torch.softmax(-0.5 * errors.sum(0) / errors.amin(1).mean(), 0)
    torch.testing.assert_close(believed(*winds), expected)


def test_noise_makes_it_careful():
    calm, gusty = believed(RIGHT, noise=0.01), believed(RIGHT, noise=0.5)
    assert calm[0] > 0.999
    assert 0.05 < gusty[0] < 0.99


@pytest.mark.parametrize("skip", [1, 2])
def test_memory_solves_what_cannot_be_solved_without(skip):
    """One observation says nothing of the wind, and without it the point is blown past its goal."""
    plan = {"horizon": 8 // skip, "risk": "mean"}
    recalling, forgetful = (agent(skip, windy=True, recall=recall, plan=plan) for recall in (True, False))
    there = [[one.success for one in run_episodes(Windy, made, 12, together=5)] for made in (recalling, forgetful)]
    assert sum(there[0]) == 12
    assert sum(there[1]) <= 3
    assert recalling.belief.shares().amax(1).min() > 0.99


def test_what_it_believed_at_each_plan_is_noted():
    made, world = agent(windy=True, recall=True), Windy()
    world.reset(seed=0)
    [one] = run_episodes(lambda: world, made, 1)
    assert made.judgements == []
    made.judged = {one.seed}
    run_episodes(lambda: world, made, 1)
    right = int(world.wind < 0)
    told = [judgement.belief[right] for judgement in made.judgements]
    assert told[0] == 0.5
    assert min(told[1:]) > 0.99
    assert agent().judgements == []


def test_episodes_do_not_depend_on_those_beside_them_nor_on_what_was_met_before():
    def played(together):
        made = agent(windy=True, recall=True)
        return [one.states[-1].tolist() for one in run_episodes(Windy, made, 6, together=together)]

    assert played(6) == played(1) == played(4)


def test_it_outlives_another_task():
    made, world = agent(windy=True, recall=True), Windy()
    observation, info = world.reset(seed=0)
    made.begin([world], [0])
    for _ in range(4):
        observation, _, _, _, info = world.step(made.act(observation, info))
    told = made.belief.shares()
    made.configure(task(recall=True, plan={"horizon": 4}))
    assert torch.equal(made.belief.shares(), told)
    assert told.max() > 0.99


def test_a_model_of_one_future_has_nothing_to_believe():
    with pytest.raises(UserError, match=r"task\.recall.*--latent"):
        run_episodes(Windy, agent(recall=True), 1)
