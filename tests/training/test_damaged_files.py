"""Checkpoints and logs that are damaged: refused in one line, or mended; a resumed run is not falsified."""

from pathlib import Path

import pytest
import torch
from damage import damaged
from torch import nn

from nldiff.errors import NldiffError
from nldiff.training.run_files import Logs, State


def small_state(seed: int = 0) -> State:
    torch.manual_seed(seed)
    network = nn.Linear(3, 2)
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.ones(1, 3)).sum().backward()
    optimiser.step()
    return State(network, nn.Linear(3, 2), optimiser, step=7, history=[[1.0, 2.0]], seconds=3.0)


def content(state: State) -> list[torch.Tensor]:
    return [*state.network.state_dict().values(), *state.average.state_dict().values()]


def test_damaged_checkpoints_are_refused_or_whole(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    small_state().save(path)
    whole, refused = path.read_bytes(), 0
    for version in damaged(whole, 150):
        path.write_bytes(version)
        state = small_state(seed=1)
        try:
            state.load(path)
        except NldiffError as error:
            refused += 1
            assert str(error).startswith(f"{path} is damaged")
            assert "\n" not in str(error)
            continue
        # damage of padding or of a name that is not read
        assert (state.step, state.history, state.seconds) == (7, [[1.0, 2.0]], 3.0)
        for expected, value in zip(content(small_state()), content(state), strict=True):
            torch.testing.assert_close(value, expected, rtol=0, atol=0)
    assert refused >= 130


def test_a_flipped_bit_of_a_weight_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    state = small_state()
    state.save(path)
    whole = path.read_bytes()
    at = whole.index(state.network.state_dict()["weight"].numpy().tobytes())
    path.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    with pytest.raises(NldiffError, match="is damaged or belongs to another configuration: wrong checksum"):
        state.load(path)


@pytest.mark.parametrize(
    "change",
    [
        {"step": "7"}, {"step": -1}, {"step": 1.5}, {"step": True}, {"seconds": float("nan")}, {"seconds": "x"},
        {"seconds": None}, {"history": 3}, {"history": [3]}, {"history": [["x"]]}, {"network": {}}, {"network": 3},
        {"average": None}, {"optimiser": {}}, {"optimiser": []},
    ],
    ids=str,
)  # fmt: skip
def test_foreign_values_of_a_checkpoint(tmp_path: Path, change: dict[str, object]) -> None:
    path = tmp_path / "checkpoint.pt"
    small_state().save(path)
    torch.save(torch.load(path, weights_only=True) | change, path)
    with pytest.raises(NldiffError, match=r"is damaged or belongs to another configuration: .") as caught:
        small_state().load(path)
    assert "\n" not in str(caught.value)


def test_moments_of_another_shape(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    small_state().save(path)
    state = torch.load(path, weights_only=True)
    state["optimiser"]["state"][0]["exp_avg"] = torch.zeros(5)
    torch.save(state, path)
    with pytest.raises(NldiffError, match=r"exp_avg of shape \[5\] for a parameter of \[2, 3\]"):
        small_state().load(path)


HEADER = "step,loss,gradient_norm,learning_rate,seconds\r\n"
ROWS = [f"{step},0.5,1,0.001,{step}.25\r\n" for step in range(1, 62)]


@pytest.mark.parametrize(
    ("damage", "kept"),
    [
        ("\r\n", 61),
        ("\n\n\r\n", 61),
        ("\xff\xfe\0\r\n", 61),
        ("6", 61),
        ("62,0.5,1,0.001,62.25", 61),  # its end, and with it perhaps a digit, is missing
        ("62,0.5,1,0.001\r\n", 61),
        ("62,0.5,one,0.001,3\r\n", 61),
        ("62.5,0.5,1,0.001,3\r\n", 61),
        ("nan,0.5,1,0.001,3\r\n", 61),
        ("-3,0.5,1,0.001,3\r\n", 61),
        ("62,0.5,1,0.001,62.25\r\n", 62),
        ("63,0.5,1,0.001,63.25\r\n", 61),  # after the checkpoint
    ],
    ids=repr,
)
def test_a_damaged_log_is_mended(tmp_path: Path, damage: str, kept: int) -> None:
    path = tmp_path / "loss.csv"
    path.write_bytes((HEADER + "".join(ROWS) + damage).encode("latin-1"))
    Logs(tmp_path, ["value"], 62, None)
    rows = [*ROWS, "62,0.5,1,0.001,62.25\r\n"][:kept]
    assert path.read_bytes().decode() == HEADER + "".join(rows)


def test_any_damage_of_a_log_leaves_rows_of_it(tmp_path: Path) -> None:
    path = tmp_path / "loss.csv"
    for version in damaged((HEADER + "".join(ROWS)).encode(), 300):
        path.write_bytes(version)
        Logs(tmp_path, ["value"], 61, None)
        for line in path.read_text().splitlines()[1:]:
            assert len([float(value) for value in line.split(",")]) == 5
