"""What all pages of the report have in common: templates that escape everything, and a policy that allows little.

Names of files, messages and metadata come from outside. A content security policy allows a page's own style sheet
and script by their hashes and nothing else, so that even a mistake could not run or fetch anything.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.resources
import os

import jinja2
import markupsafe

_NONE = "'none'"
#: Pictures that are part of the page.
EMBEDDED = "data:"
#: Pictures that lie beside the page: of a file, and of a server that shows the folder.
BESIDE = "data: file: 'self'"


@functools.cache
def template(name: str) -> jinja2.Template:
    """A page, compiled once a process: that takes longer than to fill it in for some slides."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(resource),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(name)


@functools.cache
def resource(name: str) -> str:
    """A file of the folder of templates."""
    return (importlib.resources.files("wsiseg.report") / "templates" / name).read_text(encoding="utf-8")


def head(*, images: str, script: str = "") -> dict[str, str]:
    """The style sheet, the script, and the policy that allows these and ``images``: variables of the templates."""
    style = resource("report.css")
    policy = (
        f"default-src {_NONE}; img-src {images}; style-src {_source_hash(style)}; "
        f"script-src {_source_hash(script) if script else _NONE}; "
        "base-uri 'none'; form-action 'none'"
    )
    return {"policy": policy, "style": markupsafe.Markup(style), "script": markupsafe.Markup(script)}


def is_folder_name(name: str) -> bool:
    """Whether a slide's id is the name of a folder, and no path to another."""
    return os.path.basename(name) == name not in ("", ".", "..")


def _source_hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
