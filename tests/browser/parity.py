"""What the SDK's pages ask of components, and which of it the shell's components know."""

from __future__ import annotations

import re
from collections import defaultdict
from html.parser import HTMLParser
from typing import Any, NamedTuple

from playwright.sync_api import Page

# Of every element: Vue's own, and what Vue passes on to the element that a component draws.
EVERYWHERE = {"class", "style", "key", "ref", "id", "slot", "slot-scope", "width"}
# The SDK writes `:disabled` on every element-ui tag, and these, which element-ui itself does not know: it ignores them.
IGNORED_BY_ELEMENT_UI = {"disabled", "fit-input-width", "precision"}
# Components that the SDK itself defines, in the scripts that its pages load: theirs on both sides.
OF_THE_SDK = {"fast-table", "sly-run-app-button"}


class Use(NamedTuple):
    """What the pages give a tag."""

    attributes: set[str]
    events: set[str]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.uses: dict[str, Use] = defaultdict(lambda: Use(set(), set()))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if "-" not in tag:
            return
        use = self.uses[tag]
        for name, _ in attributes:
            bare = name.removeprefix("v-bind:").removeprefix(":")
            if name.startswith(("@", "v-on:")):
                event = name.removeprefix("v-on:").removeprefix("@")
                if ".native" not in event:
                    use.events.add(event.split(".")[0])
            elif name == "v-model":
                use.attributes.add("v-model")
            elif not name.startswith("v-"):
                use.attributes.add(bare.removesuffix(".sync"))
                if bare.endswith(".sync"):
                    use.events.add(f"update:{bare.removesuffix('.sync')}")


def uses(html: str) -> dict[str, Use]:
    """By tag, of all tags with a dash in their name."""
    reader = _Reader()
    reader.feed(html)
    return dict(reader.uses)


def components(page: Page) -> dict[str, dict[str, Any]]:
    """What is registered in an open page: `props` in attributes' spelling, `emits`, and how `v-model` binds."""
    found = page.evaluate(
        """() => Object.entries(Vue.options.components).map(([name, component]) => {
            const options = component.options || component;
            const model = options.model || { prop: 'value', event: 'input' };

            return [name, { props: Object.keys(options.props || {}), emits: options.emits || null, model }];
        })"""
    )
    return {name: {**entry, "props": {_kebab(prop) for prop in entry["props"]}} for name, entry in found}


def unknown(uses: dict[str, Use], components: dict[str, dict[str, Any]]) -> list[str]:
    """What the pages use and the components do not declare, a line each."""
    by_tag = {_kebab(name): entry for name, entry in components.items()}
    problems = []
    for tag, use in sorted(uses.items()):
        if tag not in by_tag:
            problems.append(f"<{tag}> is no component")
        if tag not in by_tag or tag in OF_THE_SDK:
            continue
        known = by_tag[tag]
        ignored = EVERYWHERE | (IGNORED_BY_ELEMENT_UI if tag.startswith("el-") else set())
        wanted = {known["model"].get("prop", "value") if name == "v-model" else name for name in use.attributes} - ignored
        problems += [f"<{tag}> has no attribute {name}" for name in sorted(wanted - known["props"])]
        events = use.events | ({known["model"].get("event", "input")} if "v-model" in use.attributes else set())
        if known["emits"] is not None or tag.startswith("sly-"):
            problems += [f"<{tag}> has no event {name}" for name in sorted(events - set(known["emits"] or ()))]
    return problems


def _kebab(name: str) -> str:
    return re.sub(r"(?<=[a-z0-9])([A-Z])", r"-\1", name).lower()
