"""What may change of a run's spec while the run lasts: how it is looked after, never what it makes."""

from .model import Model, Rule, transition

IN_FLIGHT = ("active_deadline_seconds", "recovery", "suspend", "ttl_seconds_after_finished")


def fixed_rules(spec: type[Model]) -> tuple[Rule, ...]:
    """For each other field, as a rule of the object whose `spec` it is in: it stays as it was when the run was made."""
    return tuple(_fixed(spec, name, alias) for name, alias in _fixed_fields(spec).items())


def fixed_differences(one: Model, other: Model) -> list[str]:
    """The fields, as they are written, in which two specs differ that can't be of the same run."""
    fields = _fixed_fields(type(one))
    return [alias for name, alias in fields.items() if getattr(one, name) != getattr(other, name)]


def _fixed_fields(spec: type[Model]) -> dict[str, str]:
    return {name: field.alias or name for name, field in spec.model_fields.items() if name not in IN_FLIGHT}


def _fixed(spec: type[Model], name: str, alias: str) -> Rule:
    new, old = f"self.spec.{alias}", f"oldSelf.spec.{alias}"
    same = f"{new} == {old}"
    if spec.model_fields[name].default is None:  # the others are there: given, or by default
        same = f"has({new}) == has({old}) && (!has({new}) || {same})"
    *some, last = (spec.model_fields[each].alias or each for each in IN_FLIGHT)
    remedy = "delete the run, whose artifacts stay, and apply a new one"
    text = f"{alias} can't change in flight, only {', '.join(some)} and {last} can; {remedy}"
    return transition(same, text, f"spec.{alias}")
