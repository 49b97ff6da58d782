"""Pictures on the page: what was predicted, colours of tokens, neighbours, the map of the embeddings."""

from __future__ import annotations

from itertools import pairwise
from xml.etree.ElementTree import Element

import numpy as np

from jepakit.pages.charts import colour_class, scatter_chart, short
from jepakit.pages.data import ReportData
from jepakit.pages.figures import embedding_map, flow_colours, token_colours
from jepakit.pages.markup import missing, tag
from jepakit.pages.pictures import colour_map, mask_picture, picture

_PICTURED = 8  # images in the token maps and rows of neighbours
_MASKED = 6
_NAMED = 20  # classes with their own colour and shape


def hidden(data: ReportData) -> list[Element]:
    """What the masks hid, or for paired systems the views that were compared."""
    if data.images is not None and data.masks and data.grid is not None:
        cells = data.grid[0] * data.grid[1]
        figures = []
        seen, asked = [], []
        for i, (context, targets) in enumerate(data.masks):
            seen.append(len(set(context)) / cells)
            asked.append(len({int(t) for block in targets for t in block}) / cells)
            if i < _MASKED:
                panels = mask_picture(data.images[i], context, targets, data.grid, _caption(data, i))
                figures.append(
                    tag("figure", tag("div", {"class": "three"}, panels), tag("figcaption", _caption(data, i)))
                )
        lead = (
            f"Left the image, in the middle what the context encoder saw (on average {np.mean(seen):.0%} of "
            f"{cells} patches), right the blocks whose embeddings it had to predict ({np.mean(asked):.0%}).{_of_clips(data)}"
        )
        return [tag("p", {"class": "lead"}, lead), tag("div", {"class": "masks"}, figures)]
    if data.views is not None and data.images is not None:
        rows = []
        for i, views in enumerate(data.views[:_MASKED]):
            shown = [tag("li", picture(v, f"View {j + 1} of {_caption(data, i)}")) for j, v in enumerate(views[:8])]
            rows.append(
                tag(
                    "figure",
                    {"class": "strip"},
                    tag("div", picture(data.images[i], _caption(data, i))),
                    tag("ol", {"style": f"--n:{len(shown)}"}, shown),
                )
            )
        lead = "This system hides nothing: it compares views. Left the image, then views drawn for one training step."
        return [tag("p", {"class": "lead"}, lead), tag("div", {"class": "strips"}, rows)]
    return [missing("No masks or views were drawn for this page.", data.command("report"))]


def _caption(data: ReportData, i: int) -> str:
    return _label(data, i) or f"Image {i + 1}"


def _label(data: ReportData, i: int) -> str:
    """An image's label in words; empty when there is none."""
    if data.labels is None:
        return ""
    value = np.asarray(data.labels[i])
    if value.ndim and np.issubdtype(value.dtype, np.floating):
        return ", ".join(short(float(number)) for number in value)
    if value.ndim:
        names = [_class_name(data, int(j)) for j in np.flatnonzero(value)]
        return ", ".join(names) or "no class"
    if np.issubdtype(value.dtype, np.integer):
        return _class_name(data, int(value))
    return short(float(value))


def _class_name(data: ReportData, number: int) -> str:
    return str(data.classes[number]) if data.classes and 0 <= number < len(data.classes) else f"class {number}"


def colours(data: ReportData) -> list[Element]:
    """PCA of patch tokens as colour maps."""
    if data.images is None or data.tokens is None or data.grid is None:
        return [missing("No patch tokens were computed for this page.", data.command("report"))]
    found = token_colours(data.tokens[:_PICTURED], data.grid)
    if found is None:
        return [missing("All patch tokens are alike, or are not numbers: there is nothing to colour.")]
    pairs = []
    for i, colour in enumerate(found.colours):
        name = _caption(data, i)
        shape = (data.images.shape[2], data.images.shape[3])
        both = [picture(data.images[i], name), colour_map(colour, shape, f"PCA colours of the patch tokens of {name}")]
        pairs.append(tag("figure", tag("div", {"class": "two"}, both), tag("figcaption", name)))
    lead = (
        "The first three principal components of all patch tokens as red, green and blue. Patches of one colour look "
        f"alike to the encoder. The three colours hold {found.explained:.0%} of the tokens' variance."
    )
    return [tag("p", {"class": "lead"}, lead + _of_clips(data)), tag("div", {"class": "pairs"}, pairs)]


def moves(data: ReportData) -> list[Element]:
    """Two frames, and the motion from one to the other as colours, beside the true one where it is known."""
    if data.moving is None or data.flows is None:
        return [missing("No motion was found for this page.", data.command("report"))]
    known = data.true_flows
    speeds = np.hypot(*np.moveaxis(data.flows if known is None else known, 1, 0))
    most = float(np.quantile(speeds, 0.99))
    rows = []
    for i, ((before, after), flow) in enumerate(zip(data.moving[:_MASKED], data.flows, strict=False)):
        shape, name = after.shape[1:], f"Clip {i + 1}"
        found = colour_map(flow_colours(flow, most), shape, f"{name}: motion found")
        shown = [picture(after, f"{name}: the next frame"), found]
        said = f"{np.hypot(*flow).mean():.1f} pixels on average"
        if known is not None:
            shown.append(colour_map(flow_colours(known[i], most), shape, f"{name}: true motion"))
            said += f", end-point error {np.hypot(*(flow - known[i])).mean():.1f}"
        items = [tag("li", one) for one in shown]
        head = tag("div", picture(before, name), tag("small", said))
        rows.append(tag("figure", {"class": "strip"}, head, tag("ol", {"style": f"--n:{len(items)}"}, items)))
    lead = (
        f"Left a frame, then the next one, then the motion between them{'' if known is None else ', found and true'}: the hue "
        f"is its direction (red right, green-yellow down, cyan left, violet up), white is still, full colour {most:.1f} pixels."
    )
    return [tag("p", {"class": "lead"}, lead), tag("div", {"class": "strips"}, rows)]


def neighbours(data: ReportData) -> list[Element]:
    """Queries with their nearest neighbours; equal labels are marked."""
    if data.images is None or data.neighbours is None or not len(data.neighbours):
        return [missing("No neighbours were computed for this page.", data.command("report"))]
    ranked = data.neighbours
    rows = []
    for query, *others in ranked[:_PICTURED].tolist():
        shown = []
        for other in others[:8]:
            says, kind = _label(data, other), None
            if _has_classes(data):
                kind = "same" if _same(data, query, other) else "other"
                says = ("✓ " if kind == "same" else "✗ ") + says
            alt = f"Neighbour: {_label(data, other) or f'image {other + 1}'}"
            shown.append(
                tag("li", {"class": kind}, picture(data.images[other], alt), tag("small", says) if says else None)
            )
        query_name = _label(data, query) or "query"
        head = tag("div", picture(data.images[query], f"Query: {query_name}"), tag("small", query_name))
        rows.append(tag("figure", {"class": "strip"}, head, tag("ol", {"style": f"--n:{len(shown)}"}, shown)))
    lead = "Left the query, then the held-out images whose embeddings are nearest to it, nearest first."
    if _has_classes(data):
        hits = [_same(data, query, other) for query, *others in ranked.tolist() for other in others]
        lead += f" {sum(hits)} of {len(hits)} share the label of their query (✓)."
    return [tag("p", {"class": "lead"}, lead + _of_clips(data)), tag("div", {"class": "strips"}, rows)]


def _of_clips(data: ReportData) -> str:
    return " Clips are shown at their middle frame." if data.of_clips else ""


def _has_classes(data: ReportData) -> bool:
    return data.labels is not None and bool(np.issubdtype(data.labels.dtype, np.integer))


def _same(data: ReportData, one: int, other: int) -> bool:
    return data.labels is not None and bool(np.array_equal(data.labels[one], data.labels[other]))


def flat_map(data: ReportData) -> list[Element]:
    """Embeddings in two dimensions, coloured by class (or by the value's eighth, for regression)."""
    if data.embeddings is None:
        return [missing("No embeddings were computed for this page.", data.command("report"))]
    found = embedding_map(data.embeddings)
    if found is None:
        return [missing("The embeddings are all alike, or are not numbers: there is no map to draw.")]
    groups, names, remark = _groups(data, found.ids)
    ordered = data.embedding_labels is not None and not np.issubdtype(data.embedding_labels.dtype, np.integer)
    caveat = " Who lies beside whom carries meaning; the distances between clusters do not."
    caveat = caveat if found.method == "t-SNE" else ""
    lead = f"{len(found.ids):,} held-out embeddings in two dimensions ({found.method}).{caveat}{remark}"
    label = f"Map of {len(found.ids)} embeddings by {found.method}"
    chart = scatter_chart(found.points, groups, names, label=label, ordered=ordered)
    legend = []
    for group, name in enumerate(names):
        count = int((groups == group).sum())
        shape = " square" if group >= 10 else ""
        key = tag("i", {"class": f"key {colour_class(group, ordered)}{shape}"})
        legend.append(tag("li", key, tag("span", name), tag("small", f"{count:,}")))
    box = tag("ul", {"class": "legend"}, legend) if legend else None
    return [tag("p", {"class": "lead"}, lead), tag("figure", {"class": "map"}, chart, box)]


def _groups(data: ReportData, ids: np.ndarray) -> tuple[np.ndarray, list[str], str]:
    """Group of each point, the groups' names, and what to say about them."""
    none = np.full(len(ids), -1, dtype=np.int64)
    if data.embedding_labels is None:
        return none, [], " There are no labels, so the points have no colours."
    labels = np.asarray(data.embedding_labels)[ids]
    if labels.ndim > 1 and np.issubdtype(labels.dtype, np.floating):
        return none, [], " Labels of several numbers have no single colour."
    if labels.ndim > 1:
        return none, [], " Images with several classes each have no single colour."
    if np.issubdtype(labels.dtype, np.integer):
        numbers = np.unique(labels)
        shown = numbers[:_NAMED]
        groups = np.where(np.isin(labels, shown), np.searchsorted(shown, labels), -1)
        rest = f" The first {_NAMED} of {len(numbers)} classes are coloured." if len(numbers) > _NAMED else ""
        return groups.astype(np.int64), [_class_name(data, int(n)) for n in shown], rest
    edges = np.unique(np.quantile(labels[np.isfinite(labels)], np.linspace(0, 1, 9)))
    if len(edges) < 2:
        return none, [], " All labels have one value."
    ranges = np.clip(np.searchsorted(edges, labels, side="right") - 1, 0, len(edges) - 2)
    groups = np.where(np.isfinite(labels), ranges, -1)
    names = [f"{short(a)} – {short(b)}" for a, b in pairwise(edges)]
    return groups.astype(np.int64), names, " Colours are ranges of the label with equally many images."
