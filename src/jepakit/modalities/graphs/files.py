"""Reads graphs in the TU text layout (Morris et al. 2020, "TUDataset", arXiv 2007.08663), MUTAG among them.

`NAME_A.txt` holds one edge a line (two node numbers from 1), `NAME_graph_indicator.txt` the graph of each node,
`NAME_graph_labels.txt` the class of each graph; `_node_labels`, `_edge_labels`, `_node_attributes` and
`_graph_attributes` (numbers to predict) may be there.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jepakit.errors import UserError, missing_extra
from jepakit.files import read_text
from jepakit.modalities.graphs.collection import Graph, GraphCollection

MOST = 2.0**53  # numbers in files are below it: exact as float64, and no overflow as float32


def read_folder(folder: Path) -> GraphCollection:
    """The graphs of a folder in the TU text layout.

    Errors: not one `NAME_A.txt`, files that are missing, cannot be parsed or do not fit together.
    """
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder. Give one in the TU text layout (NAME_A.txt, ...), or mutag, or motifs.")
    found = sorted(folder.glob("*_A.txt"))
    if len(found) != 1:
        raise UserError(f"{folder} must hold one file NAME_A.txt with the edges of all graphs, it holds {len(found)}.")
    name = found[0].name.removesuffix("_A.txt")
    graph_of = _whole(folder, name, "graph_indicator", columns=1, required=True)[:, 0] - 1
    if len(graph_of) and (graph_of.min() < 0 or graph_of.max() >= len(graph_of)):
        raise UserError(f"{folder / name}_graph_indicator.txt: graphs must be numbered from 1, each with at least one node.")
    edges = _whole(folder, name, "A", columns=2, required=True) - 1
    if len(edges) and (edges.min() < 0 or edges.max() >= len(graph_of)):
        raise UserError(f"{found[0]}: nodes must be numbered from 1 to {len(graph_of)}, the lines of the graph indicator.")
    if len(edges) and (graph_of[edges[:, 0]] != graph_of[edges[:, 1]]).any():
        raise UserError(f"{found[0]}: an edge joins nodes of two graphs. Check that these are files of one collection.")
    labels, classes, task = _targets(folder, name)
    count = int(graph_of.max(initial=-1)) + 1 if labels is None else len(labels)
    sizes = np.bincount(graph_of, minlength=count)
    if len(sizes) > count or not sizes.all():
        wrong = f"graph {int(np.argmin(sizes)) + 1} has no nodes" if len(sizes) == count else f"{len(sizes)} graphs"
        raise UserError(
            f"{folder}: {count} graphs have labels, but {wrong} in {name}_graph_indicator.txt. Check that these are "
            "files of one collection."
        )
    return GraphCollection(
        name=name,
        kind="TU text",
        graphs=_split(folder, name, graph_of, edges, count),
        labels=labels,
        classes=classes,
        task=task,
        notes=[] if _exists(folder, name, "node_labels") or _exists(folder, name, "node_attributes")
        else [f"{name} has no node labels: a node's degree stands for its label."],
    )


def mutag_folder() -> Path:
    """Where the grakel package keeps MUTAG (188 nitroaromatic compounds; Debnath et al. 1991). It is not imported."""
    spec = importlib.util.find_spec("grakel")
    if spec is None or not spec.submodule_search_locations:
        raise missing_extra("grakel", "graphs", "The data set 'mutag', which is read from its files,")
    folder = Path(next(iter(spec.submodule_search_locations))) / "tests" / "data" / "MUTAG"
    if not (folder / "MUTAG_A.txt").is_file():
        raise UserError(f"The installed grakel has no {folder}. Give a folder with MUTAG_A.txt and its companions as --data.")
    return folder


def _exists(folder: Path, name: str, what: str) -> bool:
    return (folder / f"{name}_{what}.txt").is_file()


def _read(folder: Path, name: str, what: str, columns: int | None = None, required: bool = False) -> NDArray[np.float64]:
    """The numbers of `NAME_what.txt`, `[lines, columns]`."""
    path = folder / f"{name}_{what}.txt"
    if not path.is_file():
        if required:
            raise UserError(f"{path} is missing, and needed by the TU text layout.")
        return np.zeros((0, columns or 1))
    text = read_text(path)
    if not text.strip():
        return np.zeros((0, columns or 1))
    try:
        values = np.loadtxt(text.splitlines(), delimiter=",", ndmin=2, comments=None)
    except ValueError as error:
        raise UserError(f"{path} cannot be read as numbers separated by commas: {error}. Check that line.") from error
    if not (np.abs(values) < MOST).all():
        line = _first_line(~(np.abs(values) < MOST))
        raise UserError(f"{path}: line {line} holds NaN, infinity or too large a number. Replace it.")
    if columns is not None and values.shape[1] != columns:
        raise UserError(f"{path} must have {columns} numbers a line, it has {values.shape[1]}.")
    return values


def _whole(folder: Path, name: str, what: str, columns: int | None = None, required: bool = False) -> NDArray[np.int64]:
    """The same of a file of whole numbers."""
    values = _read(folder, name, what, columns, required)
    whole = values.astype(np.int64)
    if (whole != values).any():
        line = _first_line(whole != values)
        raise UserError(f"{folder / name}_{what}.txt: line {line} holds a fraction, expected whole numbers.")
    return whole


def _first_line(wrong: NDArray[np.bool_]) -> int:
    return int(np.argmax(wrong.any(axis=1))) + 1


def _targets(
    folder: Path, name: str
) -> tuple[NDArray | None, list[str] | None, Literal["classification", "regression"] | None]:
    if _exists(folder, name, "graph_labels"):
        names, codes = np.unique(_whole(folder, name, "graph_labels", columns=1)[:, 0], return_inverse=True)
        return codes.astype(np.int64), [str(label) for label in names], "classification"
    if _exists(folder, name, "graph_attributes"):
        return _read(folder, name, "graph_attributes")[:, 0], None, "regression"
    return None, None, None


def _split(folder: Path, name: str, graph_of: NDArray, edges: NDArray, count: int) -> list[Graph]:
    """One `Graph` each: nodes keep their order within it and are numbered from 0."""
    nodes, links = len(graph_of), len(edges)
    labels = _lines(folder, name, "node_labels", nodes, _whole)
    edge_labels = _lines(folder, name, "edge_labels", links, _whole)
    attributes = _lines(folder, name, "node_attributes", nodes, _read)
    if labels is None and attributes is not None:
        labels = np.zeros((nodes, 1))
    order = np.argsort(graph_of, kind="stable")
    starts = np.searchsorted(graph_of[order], np.arange(count + 1))
    place = np.empty(nodes, dtype=np.int64)
    place[order] = np.arange(nodes) - starts[graph_of[order]]
    edge_graph = graph_of[edges[:, 0]]
    edge_order = np.argsort(edge_graph, kind="stable")
    edge_starts = np.searchsorted(edge_graph[edge_order], np.arange(count + 1))
    graphs = []
    for index in range(count):
        own = order[starts[index] : starts[index + 1]]
        links_of = edge_order[edge_starts[index] : edge_starts[index + 1]]
        graphs.append(
            Graph.of(
                len(own),
                place[edges[links_of]],
                None if labels is None else labels[own, 0],
                None if edge_labels is None else edge_labels[links_of, 0],
                None if attributes is None else attributes[own],
            )
        )
    return graphs


def _lines(
    folder: Path, name: str, what: str, expected: int, read: Callable[[Path, str, str], NDArray]
) -> NDArray | None:
    if not _exists(folder, name, what):
        return None
    values = read(folder, name, what)
    if len(values) != expected:
        raise UserError(f"{folder / f'{name}_{what}.txt'} must have {expected} lines, it has {len(values)}.")
    return values
