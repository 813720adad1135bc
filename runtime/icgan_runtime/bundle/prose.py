"""What a manifest's free reports (provenance, metrics, parity, bench) say, in lines for people.

Other programs may have written anything there that JSON holds: what has no form of its own here is shown as
names and values, one a line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

_SCORES = {
    "fid": "FID",
    "kid": "KID",
    "is": "Inception score",
    "lpips_diversity": "LPIPS diversity",
}


def scores(metrics: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, value) of every measured score, a deviation beside the score that it is of."""
    found = metrics.get("scores")
    if not isinstance(found, dict):
        return []
    rows = []
    for name, value in found.items():
        if name.removesuffix("_deviation") in found and name.endswith("_deviation"):
            continue
        text = value_text(value)
        if f"{name}_deviation" in found:
            text += f" ± {value_text(found[f'{name}_deviation'])}"
        rows.append((_SCORES.get(name, plain_name(name)), text))
    return rows


def measured_on(metrics: Mapping[str, Any]) -> str:
    """What the scores were measured on, in a sentence; empty where the report does not say."""
    found = metrics.get("parameters")
    if not isinstance(found, dict):
        return ""
    parts = []
    if isinstance(found.get("samples"), int):
        parts.append(f"{found['samples']:,} generated pictures")
    if "reference" in found:
        parts.append(f"against {value_text(found['reference'])}")
    if found.get("truncation") is not None:
        parts.append(f"truncation {value_text(found['truncation'])}")
    if "seed" in found:
        parts.append(f"seed {value_text(found['seed'])}")
    return ", ".join(parts)


def remarks(metrics: Mapping[str, Any]) -> list[str]:
    """What has to be known to read the scores."""
    notes = metrics.get("notes")
    return [value_text(note) for note in notes] if isinstance(notes, list) else []


def metrics_lines(metrics: Mapping[str, Any], indent: str) -> list[str]:
    """Scores, what they were measured on, and remarks; whatever else the report holds."""
    rows = scores(metrics)
    if not rows:
        return tree(metrics, indent)
    width = max(len(name) for name, _ in rows)
    lines = [f"{indent}{name:<{width}}  {value}" for name, value in rows]
    if on := measured_on(metrics):
        lines.append(f"{indent}of {on}")
    lines += [f"{indent}{note}" for note in remarks(metrics)]
    rest = {key: value for key, value in metrics.items() if key not in ("scores", "parameters", "notes")}
    return lines + tree(rest, indent)


def parity_lines(parity: Mapping[str, Any], indent: str) -> list[str]:
    """Every comparison with torch, and its bound."""
    checks = parity.get("checks")
    if not isinstance(checks, list):
        return tree(parity, indent)
    lines = []
    for check in checks:
        match check:
            case {"stage": str(stage), "precision": str(precision), "what": str(what), "value": value}:
                line = f"{indent}{stage:<9}  {precision}  {what}: {value_text(value, none='infinite')}"
                if check.get("bound") is not None:
                    most = "at least" if check.get("at_least") else "at most"
                    line += f", {most} {value_text(check['bound'])}"
                lines.append(line + ("" if check.get("passed", True) else "  MISSED"))
            case _:
                lines.append(f"{indent}{value_text(check)}")
    rest = {key: value for key, value in parity.items() if key not in ("checks", "passed", "seconds")}
    return lines + tree(rest, indent)


def tree(value: Mapping[str, Any], indent: str) -> list[str]:
    """Names and values, one a line, what a name holds indented below it."""
    lines = []
    for key, item in value.items():
        if item == {}:
            continue
        if isinstance(item, dict):
            lines += [f"{indent}{plain_name(key)}", *tree(item, indent + "  ")]
        elif isinstance(item, list) and any(isinstance(part, dict) for part in item):
            lines.append(f"{indent}{plain_name(key)}")
            lines += [f"{indent}  {value_text(part)}" for part in item]
        else:
            lines.append(f"{indent}{plain_name(key)}  {value_text(item)}".rstrip())
    return lines


def plain_name(name: str) -> str:
    """A field's name as words."""
    return name.replace("_", " ")


def value_text(value: object, none: str = "none") -> str:
    """A JSON value as people write it: no quotes, no brackets, four digits of a fraction."""
    if value is None:
        return none
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1e4 else f"{value:.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{plain_name(str(key))} {value_text(item)}" for key, item in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(value_text(item) for item in value)
    return str(value)
