import math

import pytest
import torch
from torch import nn

from jepakit.core.dynamics import Dynamics, ObservationEncoder
from jepakit.core.energies import Energy
from jepakit.core.state import State
from jepakit.errors import UserError
from jepakit.nn.dynamics_predictor import CausalPredictor, DynamicsPredictorConfig
from jepakit.worlds.latent_problem import LatentProblem, LatentTreeProblem
from jepakit.worlds.planners import make_planner
from jepakit.worlds.problem import ActionSpace, Problem, TreeProblem, shifted

MEAN, STD = torch.tensor([0.5, -1.0]), torch.tensor([2.0, 0.5])


class Adds(nn.Module):
    """next = position + scale * (the actions of a block, summed): the optimal plan is a straight line to the goal."""

    def __init__(self, skip=1):
        super().__init__()
        self.skip, self.calls, self.rows = skip, 0, []
        self.gain = nn.Parameter(torch.ones(()))

    def forward(self, embeddings, actions, condition=None):
        raise NotImplementedError

    def begin(self, embeddings, actions, lengths=None):
        return {"position": embeddings[:, -1], "time": torch.zeros(())}

    def advance(self, state, action, condition=None):
        self.calls += 1
        self.rows.append(len(action))
        moved = action.unflatten(-1, (self.skip, -1)).sum(1)
        return {"position": state["position"] + self.gain * moved, "time": state["time"]}

    def embedding(self, state):
        return state["position"]


class Count(nn.Module):
    """An encoder that says how often it looked."""

    looks = 0

    def forward(self, inputs):
        self.looks += 1
        return inputs


def world(skip=1, dtype=torch.float64):
    return Dynamics(ObservationEncoder(Count(), nn.Identity()), Adds(skip), Energy(name="l2")).to(dtype).eval()


def problem(model, environments=3, horizon=4, bound=1.0, goal=None, **options):
    generator = torch.Generator().manual_seed(0)
    seen = torch.randn(environments, 1, 2, generator=generator, dtype=torch.float64)
    start = model.observe({"inputs": seen, "actions": torch.zeros(environments, 0, 2)})
    space = ActionSpace(torch.full((2,), -bound).double(), torch.full((2,), bound).double(), options.pop("most", None))
    goal = seen[:, 0] + torch.tensor([1.2, -0.8]) if goal is None else goal
    return LatentProblem(model, start, goal, space, horizon, **options)


def candidates(made, count=7):
    return made.space.uniform(torch.Generator().manual_seed(1), made.environments, count, made.horizon)


@pytest.mark.parametrize("cost", ["sum", "last", "nearest"])
@pytest.mark.parametrize("skip", [1, 3])
def test_the_cost_is_the_squared_distance_of_what_is_imagined(cost, skip):
    made = problem(world(skip), skip=skip, cost=cost, scale=(MEAN.double(), STD.double()))
    actions = candidates(made)
    assert actions.shape == (3, 7, 4, 2 * skip)
    done = (made.space.steps(actions) - MEAN) / STD
    places = made.start.tree["position"][:, None, None] + done.cumsum(2)[:, :, skip - 1 :: skip]
    distance = (places - made.goal[:, None, None]).square().sum(-1)
    expected = {"sum": distance.sum(-1), "last": distance[..., -1], "nearest": distance.amin(-1)}[cost]
    torch.testing.assert_close(made.cost(actions), expected)


@pytest.mark.parametrize("chunk", [1, 4, 20, 21, 100])
@pytest.mark.parametrize("gradient", [False, True])
def test_in_chunks_as_in_one(chunk, gradient):
    """Also across environments: a chunk need not end with one."""
    whole, made = problem(world()), problem(world(), chunk=chunk)
    actions = candidates(whole).requires_grad_(gradient)
    found = made.cost(actions)
    torch.testing.assert_close(found, whole.cost(actions), rtol=1e-12, atol=1e-12)
    assert max(made.model.predictor.rows) == min(chunk, 21)
    assert found.requires_grad  # the model has parameters; a planner that draws calls it under no_grad
    if gradient:
        one, other = (torch.autograd.grad(p.cost(actions).square().sum(), actions)[0] for p in (made, whole))
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


def test_the_model_looks_once_and_imagines_once_for_each_evaluation():
    model = world()
    made = problem(model)
    plan = make_planner("cem", population=10, elites=3, iterations=5)(made)
    assert model.encoder.encoder.looks == 1
    assert model.predictor.calls == (5 + 1) * 4  # the last mean is evaluated too
    assert plan.evaluations == 51
    assert model.predictor.rows == [30] * 20 + [3] * 4


@pytest.mark.parametrize("name", ["cem", "icem", "mppi", "gradient"])
def test_the_straight_way_is_planned(name):
    """Bound .5 a step: the sum over the horizon is least where every step is as long as it may be and then exact."""
    options = {"iterations": 30} if name != "gradient" else {"iterations": 100, "starts": 2}
    if name == "icem":
        options["exponent"] = 0.5
    plan = make_planner(name, **options)(problem(world(), bound=0.5))
    best = torch.tensor([[0.5, -0.5], [0.5, -0.3], [0.2, 0.0], [0.0, 0.0]]).double()
    torch.testing.assert_close(plan.actions, best.expand(3, -1, -1), atol=0.1 if name == "icem" else 0.03, rtol=0)


@pytest.mark.parametrize("name", ["cem", "gradient"])
def test_blocks_in_raw_units_with_a_bounded_norm(name):
    """The goal is 4 units of the model away along one axis; the environment's unit is 2 of the model's .5."""
    model = world(skip=2)
    scale = (torch.zeros(2).double(), torch.full((2,), 0.25).double())
    made = problem(model, goal=problem(model).start.tree["position"] + torch.tensor([4.0, 0.0]), horizon=3, skip=2, scale=scale,
                   most=0.3, cost="last")  # fmt: skip
    plan = make_planner(name, iterations=40)(made)
    steps = made.space.steps(plan.actions)
    assert steps.shape == (3, 6, 2)
    assert float(steps.norm(dim=-1).max()) <= 0.3
    torch.testing.assert_close((steps / 0.25).sum(1), torch.tensor([4.0, 0.0]).double().expand(3, -1), atol=0.02, rtol=0)


@pytest.mark.parametrize("name", ["cem", "mppi", "random", "gradient"])
def test_an_agent_that_plans_again_at_every_step_arrives(name):
    """One small search a step, from what is left of the last plan; each environment in its own direction, of bounded length."""
    model, options = world(), {"population": 30} if name != "gradient" else {"starts": 2}
    planner = make_planner(name, iterations=3, **options, **({"elites": 5} if name in ("cem", "mppi") else {}))
    place, warm = torch.zeros(5, 2).double(), None
    goal = 2 * torch.nn.functional.normalize(torch.randn(5, 2, generator=torch.Generator().manual_seed(0))).double()
    space = ActionSpace(-torch.ones(2).double(), torch.ones(2).double(), 0.4)
    for step in range(12):
        start = model.observe({"inputs": place[:, None], "actions": torch.zeros(5, 0, 2).double()})
        plan = planner(LatentProblem(model, start, goal, space, 3), warm, step)
        assert bool(space.inside(plan.actions).all())
        place, warm = place + plan.actions[:, 0], shifted(plan.actions)
    assert float((place - goal).norm(dim=1).max()) < (0.5 if name == "random" else 0.2)


def test_the_state_of_a_transformer_is_expanded_and_chunked():
    torch.manual_seed(0)
    config = DynamicsPredictorConfig(embedding=5, action=4, history=3, dim=8, depth=2, heads=2, hidden=(12,))
    model = Dynamics(ObservationEncoder(nn.Linear(3, 6), nn.Linear(6, 5)), CausalPredictor(config), Energy(name="l2")).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    seen = {"inputs": torch.randn(2, 2, 3), "actions": torch.randn(2, 1, 4), "lengths": torch.tensor([1, 2])}
    start, goal = model.observe(seen), torch.randn(2, 5)
    space = ActionSpace(-torch.ones(2), torch.ones(2))
    made = LatentProblem(model, start, goal, space, 4, skip=2, chunk=3)
    assert isinstance(made, Problem)
    actions = candidates(made, 5)
    found = made.cost(actions)
    for i in range(2):
        for k in range(5):
            imagined = model.rollout(start.index(torch.tensor([i])), actions[i, k][None]).embeddings
            torch.testing.assert_close(found[i, k], (imagined - goal[i]).square().sum())
    together, alone = LatentProblem(model, start, goal, space, 4, skip=2), []
    for i in range(2):
        one = torch.tensor([i])
        alone.append(LatentProblem(model, start.index(one), goal[one], space, 4, skip=2, ids=[i]))
    for name in ("cem", "gradient"):
        planner = make_planner(name, iterations=3)
        plans = torch.cat([planner(problem).actions for problem in alone])
        torch.testing.assert_close(planner(together).actions, plans, atol=1e-4, rtol=0)


def test_the_gradient_planner_works_where_agents_act_and_leaves_the_model_alone():
    model = world()
    with torch.inference_mode():
        scale = (MEAN.double() * 1, STD.double() * 1)
        made = problem(model, scale=scale)
        plan = make_planner("gradient", iterations=15)(made)
        assert float(plan.cost.mean()) < float(made.cost(torch.zeros(3, 1, 4, 2)).mean())
    assert model.predictor.gain.grad is None
    assert not plan.actions.requires_grad
    assert not plan.cost.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(make_planner("gradient", iterations=15)(problem(model, scale=scale)).actions, plan.actions)


def test_embeddings_of_several_tokens_and_lower_precision():
    class Tokens(Adds):
        def advance(self, state, action, condition=None):
            return {**state, "position": state["position"] + action[:, None]}

    model = world(dtype=torch.float32)
    model.predictor = Tokens()
    start = State({"position": torch.zeros(2, 3, 2), "time": torch.zeros(())})
    space = ActionSpace(-torch.ones(2).double(), torch.ones(2).double())
    made = LatentProblem(model, start, torch.ones(2, 3, 2), space, 1)
    found = made.cost(torch.zeros(2, 5, 1, 2).double())
    assert found.tolist() == [[6.0] * 5] * 2
    plan = make_planner("cem")(made)
    torch.testing.assert_close(plan.actions, torch.ones(2, 1, 2).double(), atol=0.02, rtol=0)


def test_a_model_taught_by_l1_plans_by_l1():
    model = world()
    space = ActionSpace(-torch.ones(2).double(), torch.ones(2).double())
    start = State({"position": torch.zeros(1, 2).double(), "time": torch.zeros(())})
    goal = torch.tensor([[3.0, -4.0]]).double()
    for energy, expected in (("l2", 25.0), ("l1", 7.0)):
        model.measure = Energy(name=energy)
        assert LatentProblem(model, start, goal, space, 1).cost(torch.zeros(1, 1, 1, 2).double()).item() == expected
        tree = LatentTreeProblem(model, start, goal, torch.eye(2).double(), 1)
        assert tree.state_cost(tree.start).item() == expected


def test_a_tree_of_imagined_states():
    """Steps along one axis or the other: the shortest way to a corner, found with few states since many ways cross."""
    model = world()
    choices = torch.tensor([[1, 0], [-1, 0], [0, 1], [0, -1], [0, 0]]).double()
    start = model.observe({"inputs": torch.zeros(2, 1, 2).double(), "actions": torch.zeros(2, 0, 2).double()})
    goal = torch.tensor([[2, -3], [-1, 2]]).double()

    def key(state):
        place = state.tree["position"].round().long() + 50
        return place[:, 0] * 1000 + place[:, 1]

    for chunk in (None, 7):
        made = LatentTreeProblem(model, start, goal, choices, 6, chunk=chunk, key=key)
        assert isinstance(made, TreeProblem)
        plan = make_planner("tree", beam=20)(made)
        torch.testing.assert_close(choices[plan.actions[..., 0]].sum(1), goal)
        distances = (choices[plan.actions[..., 0]].cumsum(1) - goal[:, None]).square().sum(-1)
        torch.testing.assert_close(plan.cost, distances.sum(1))
        assert distances[:, -2:].tolist() == [[0, 0], [0, 0]]  # 5 and 3 steps away, the longer axis first
        assert plan.cost.tolist() == [8 + 5 + 2 + 1, 2 + 1]
    model.predictor.rows.clear()
    make_planner("tree", beam=20)(LatentTreeProblem(model, start, goal, choices, 3, chunk=7))
    assert max(model.predictor.rows) == 7
    for options, message in [
        ({"goal": goal[:1]}, "the state has 2, there are 1 goals"),
        ({"choices": choices[:0]}, "at least one action"),
        ({"choices": choices * math.nan}, "finite"),
        ({"horizon": 0}, "horizon"),
        ({"chunk": 0}, "chunk"),
    ]:
        with pytest.raises(UserError, match=message):
            LatentTreeProblem(**{"model": model, "start": start, "goal": goal, "choices": choices, "horizon": 3, **options})


def test_constraints_and_streams_are_handed_on():
    def allowed(actions):
        return (actions[..., 0] < 0.2).all(-1)

    plan = make_planner("cem")(problem(world(), feasible=allowed))
    assert bool(allowed(plan.actions).all())
    planner = make_planner("random", population=5)
    one, other = planner(problem(world())), planner(problem(world(), ids=[0, 9, 2]))
    assert [torch.equal(one.actions[i], other.actions[i]) for i in range(3)] == [True, False, True]


def test_mistakes():
    model = world()
    made = problem(model)
    for options, message in [
        ({"goal": torch.zeros(2, 2).double()}, "the state has 3, there are 2 goals"),
        ({"goal": torch.zeros(3, 5).double()}, r"A goal is an embedding of the model's, \[3, 2\]"),
        ({"goal": torch.full((3, 2), math.nan).double()}, "NaN or infinite"),
        ({"cost": "first"}, "cost"),
        ({"chunk": 0}, "chunk"),
        ({"horizon": 0}, "horizon"),
        ({"skip": 0}, "skip"),
        ({"scale": (torch.zeros(3), torch.ones(2))}, "the mean of actions is 2 finite numbers"),
        ({"scale": (torch.zeros(2), torch.tensor([1.0, math.nan]))}, "the std of actions is 2 finite"),
        ({"scale": (torch.zeros(2), torch.tensor([1.0, 0.0]))}, "above 0"),
    ]:
        with pytest.raises(UserError, match=message):
            problem(model, **options)
    with pytest.raises(UserError, match=r"\[3, any, 4, 2\], got \[3, 7, 5, 2\]"):
        made.cost(torch.zeros(3, 7, 5, 2))
    model.train()
    with pytest.raises(UserError, match=r"Call eval\(\)"):
        made.cost(torch.zeros(3, 7, 4, 2))


class Drifts(Adds):
    """Where the wind blows: next = position + action + z."""

    def advance(self, state, action, condition=None):
        moved = super().advance(state, action)
        return moved if condition is None else {**moved, "position": moved["position"] + condition}


def windy():
    return Dynamics(ObservationEncoder(Count(), nn.Identity()), Drifts(), Energy(name="l2")).double().eval()


WINDS = torch.tensor([[0.3, 0.0], [-0.3, 0.0], [0.0, 1.0]], dtype=torch.float64)


def each_wind(made, actions, winds=WINDS):
    """The summed cost under each, `[env, candidate, sample]`, without the class."""
    wind = winds.expand(made.environments, -1, -1)[:, None, :, None]
    places = made.start.tree["position"][:, None, None, None] + (actions[:, :, None] + wind).cumsum(3)
    return (places - made.goal[:, None, None, None]).square().sum((-1, -2))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize(("risk", "of"), [("mean", "mean"), ("worst", "amax"), (0.3, "amin"), (0.5, "median")])
def test_the_cost_of_several_futures_is_the_risk_over_them(risk, of, own):
    winds = WINDS * torch.tensor([1.0, 2.0, -1.0], dtype=torch.float64)[:, None, None] if own else WINDS
    made = problem(windy(), latents=winds, risk=risk)
    actions = candidates(made)
    costs = each_wind(made, actions, winds)
    expected = costs.median(-1).values if of == "median" else getattr(costs, of)(-1)
    torch.testing.assert_close(made.cost(actions), expected)
    assert made.model.predictor.rows == [3 * 7 * 3] * 4  # environments, candidates, futures
    alone = made.only(1)
    torch.testing.assert_close(alone.cost(actions[1:2]), expected[1:2])


def test_every_candidate_meets_the_same_futures():
    """Whatever they are: equal plans cost the same, among many or alone."""
    made = problem(windy(), latents=torch.randn(5, 2, generator=torch.Generator().manual_seed(0)), risk="worst")
    plan = candidates(made, 1)
    many = made.cost(plan.repeat(1, 6, 1, 1))
    torch.testing.assert_close(many, made.cost(plan).repeat(1, 6), rtol=0, atol=0)


@pytest.mark.parametrize("chunk", [1, 4, 62, 63])
@pytest.mark.parametrize("risk", ["mean", "worst", 0.5])
def test_futures_in_chunks_as_in_one(chunk, risk):
    whole, made = (problem(windy(), latents=WINDS, risk=risk, **options) for options in ({}, {"chunk": chunk}))
    actions = candidates(whole).requires_grad_()
    torch.testing.assert_close(made.cost(actions), whole.cost(actions), rtol=1e-12, atol=1e-12)
    assert max(made.model.predictor.rows) == chunk
    one, other = (torch.autograd.grad(p.cost(actions).square().sum(), actions)[0] for p in (made, whole))
    torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["cem", "gradient"])
def test_the_worst_of_two_winds_is_planned_against(name):
    """Winds of 0 and of 2 along x, one step, bound 5: the mean and the worst are least half way between, the best at either."""
    winds = torch.tensor([[0.0, 0.0], [2.0, 0.0]], dtype=torch.float64)
    made = problem(windy(), bound=5.0, horizon=1, latents=winds, risk="worst")
    plan = make_planner(name, iterations=60)(made)
    wanted = made.goal - made.start.tree["position"] - torch.tensor([1.0, 0.0], dtype=torch.float64)
    torch.testing.assert_close(plan.actions[:, 0], wanted, atol=0.05, rtol=0)
    torch.testing.assert_close(plan.cost, torch.ones(3, dtype=torch.float64), atol=0.1, rtol=0)


def test_futures_count_as_each_environment_believes_in_them():
    belief = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.1, 0.8, 0.1]], dtype=torch.float64)
    made = problem(windy(), latents=WINDS, belief=belief)
    actions = candidates(made)
    expected = (each_wind(made, actions) * belief[:, None]).sum(-1)
    torch.testing.assert_close(made.cost(actions), expected)
    torch.testing.assert_close(made.only(2).cost(actions[2:]), expected[2:])
    likeliest = WINDS[torch.tensor([2, 0, 1])][:, None]
    places = made.start.tree["position"][:, None] + (actions[:, 0] + likeliest).cumsum(1)
    torch.testing.assert_close(made.imagine(actions[:, 0]), places)


def test_what_is_imagined_of_several_futures_is_the_first():
    made = problem(windy(), latents=WINDS)
    actions = candidates(made, 1)[:, 0]
    places = made.start.tree["position"][:, None] + (actions + WINDS[0]).cumsum(1)
    torch.testing.assert_close(made.imagine(actions), places)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"latents": WINDS[0]}, "latents"),
        ({"latents": WINDS.expand(2, -1, -1)}, "latents"),
        ({"latents": WINDS[:0]}, "latents"),
        ({"latents": WINDS * math.nan}, "latents"),
        ({"latents": WINDS, "risk": "best"}, "risk"),
        ({"latents": WINDS, "risk": 1.5}, "risk"),
        ({"latents": WINDS, "belief": torch.ones(3, 3)}, "belief"),
        ({"latents": WINDS, "belief": torch.ones(3, 2) / 2}, "belief"),
        ({"belief": torch.ones(3, 1)}, "belief"),
    ],
)
def test_futures_that_do_not_fit_are_named(options, said):
    with pytest.raises(UserError, match=said):
        problem(windy(), **options)
