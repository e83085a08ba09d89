"""report.html: one file that can be sent, with everything a run found and every control beside it."""

import base64
import hashlib
from collections.abc import Sequence

from markupsafe import Markup

from seglens.reports.blocks import Block, Section

SUBTITLE = (
    "What the segmentation models of this study look at inside, what they share, and what happens when it is changed."
)


def render(
    title: str,
    sections: list[Section],
    *,
    subtitle: str = SUBTITLE,
    about: Sequence[Block] = (),
    sortable: bool = False,
) -> str:
    """The page as HTML text.

    Args:
        title: of the study.
        sections: in order.
        subtitle: under the title.
        about: under the subtitle, what the page was made of.
        sortable: some tables are; the one script that does it is allowed by its hash, and no other.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("seglens.reports", "templates")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    style = Markup(loader.get_source(environment, "report.css")[0])
    script = f"\n{loader.get_source(environment, 'sortable.js')[0]}" if sortable else ""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return environment.get_template("report.html.j2").render(
        title=title,
        subtitle=subtitle,
        about=about,
        sections=sections,
        style=style,
        script=Markup(script),
        digest=digest,
    )
