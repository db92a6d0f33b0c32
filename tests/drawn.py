"""What a figure shows, for tests of pictures."""

from matplotlib.figure import Figure
from matplotlib.text import Text


def legend(figure: Figure) -> list[str]:
    """Texts of the first legend."""
    return [text.get_text() for text in figure.legends[0].get_texts()]


def drawn_texts(figure: Figure) -> list[Text]:
    """Collect titles, labels, legend entries and the labels of the ticks in view."""
    texts = list(figure.texts)
    for entries in figure.legends:
        texts += entries.get_texts()
    supylabel = figure._supylabel  # type: ignore[attr-defined]
    texts += [supylabel] if supylabel else []
    for axes in figure.axes:
        texts += [axes.title, axes._left_title, axes.xaxis.label, axes.yaxis.label]  # type: ignore[attr-defined]
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            texts += [tick.label1 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            texts += [tick.label2 for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
    return [text for text in dict.fromkeys(texts) if text.get_text() and text.get_visible()]
