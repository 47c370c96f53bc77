"""What rules out that one sentence bears out another, however alike their words are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import combinations, pairwise

from wireroom_chat.domain.statements import Quantity, Statement

# Longer statements are compared by their first words only: the comparison of orders is cubic.
_MAX_ORDER = 24

# Of each group a text means one; a claim with another one means something else.
_OPPOSITES: tuple[tuple[str, ...], ...] = (
    ("increas", "decreas", "reduc", "declin", "drop", "shrink"),
    ("rise", "fall", "drop"),
    ("rais", "lower", "cut"),
    ("grow", "shrink"),
    ("gain", "lose", "loss"),
    ("win", "lose"),
    ("open", "close"),
    ("approv", "reject"),
    ("accept", "refus", "reject"),
    ("allow", "ban", "prohibit", "forbid", "forbidden"),
    ("permit", "prohibit", "ban"),
    ("includ", "exclud"),
    ("start", "end", "finish"),
    ("begin", "end", "finish"),
    ("buy", "sell"),
    ("import", "export"),
    ("hot", "cold"),
    ("warm", "cold"),
    ("north", "south", "east", "west"),
    ("northern", "southern", "eastern", "western"),
    ("first", "second", "third", "fourth", "last"),
    ("minimum", "maximum"),
    ("best", "worst"),
    ("higher", "lower"),
    ("highest", "lowest"),
    ("largest", "smallest"),
    ("larger", "smaller"),
    ("longer", "shorter"),
    ("faster", "slower"),
    ("older", "younger", "newer"),
    ("oldest", "youngest", "newest"),
    ("cheaper", "expens"),
    ("earli", "late"),
    ("earlier", "later"),
    ("old", "new"),
    ("left", "right"),
    ("pass", "fail"),
    ("succeed", "fail"),
    ("success", "failur"),
    ("enabl", "disabl"),
    ("lock", "unlock"),
    ("lift", "impos"),
    ("safe", "danger"),
    ("hourli", "daili", "weekli", "month", "year", "annual", "quarter"),
    ("spring", "summer", "autumn", "winter"),
    ("morn", "afternoon", "even", "night"),
    ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"),
    ("hire", "dismiss", "fire"),
    ("public", "privat"),
    ("upper", "lower"),
    ("inner", "outer"),
    ("insid", "outsid"),
    ("indoor", "outdoor"),
    ("employe", "employ"),
    ("tenant", "landlord"),
    ("borrow", "lender"),
    ("buyer", "seller"),
    ("plaintiff", "defend"),
    ("mother", "father"),
    ("male", "femal"),
    ("rural", "urban"),
    ("positiv", "negat"),
    ("acquir", "divest"),
    ("support", "oppos"),
    ("confirm", "deni"),
    ("arriv", "depart"),
    ("enter", "leave"),
    ("add", "remov"),
    ("free", "paid"),
    ("domest", "foreign"),
    ("wet", "dry"),
    ("strengthen", "weaken"),
    ("improv", "worsen"),
    ("save", "wast"),
    ("profit", "loss"),
)
_OPPOSED: Mapping[str, frozenset[str]] = {
    word: frozenset(other for group in _OPPOSITES if word in group for other in group) - {word}
    for group in _OPPOSITES
    for word in group
}
# Bounds that are the same for a figure.
_SAME_BOUND = frozenset(map(frozenset, ({"by", ""}, {"to", ""}, {"from", ""}, {"until", "by"}, {"by", "upper"})))
_OPPOSITE_RELATIONS = {
    "before": {"after", "until", "since"},
    "after": {"before", "until"},
    "until": {"after", "since", "before"},
    "since": {"until", "before"},
    "above": {"below"},
    "below": {"above"},
    "more": {"less"},
    "less": {"more"},
    "inside": {"outside"},
    "outside": {"inside"},
}
_TIMES = "monday tuesday wednesday thursday friday saturday sunday weekday day week month year hour minut quarter"
_NO_ROLE = frozenset(_TIMES.split())
_COMPARATIVES = frozenset({"longer", "shorter", "higher", "lower", "greater", "older", "younger", "larger", "smaller"})
# What a claim may not add: it would say more than its source.
_STRONGER = ("all", "never", "only", "most", "must", "should", "will")
# What a claim may not leave out where it says the same thing.
_WEAKER = ("some", "most", "may", "planned", "if", "should", "will", "whether")
_RELATED = {
    "must": frozenset({"must"}),
    "should": frozenset({"should"}),
    "will": frozenset({"will", "planned"}),
    "planned": frozenset({"planned", "will", "may"}),
    "may": frozenset({"may", "planned", "some"}),
    "some": frozenset({"some", "may"}),
    "most": frozenset({"most"}),
    "if": frozenset({"if", "only", "whether"}),
    "whether": frozenset({"whether", "if"}),
    "all": frozenset({"all"}),
    "never": frozenset({"never"}),
    "only": frozenset({"only", "all"}),
}


def disagreement(claim: Statement, evidence: Statement, known: frozenset[str]) -> str:
    """The name of the first rule that the claim breaks; empty when none. `known`: further stems that stand around the evidence."""
    if claim.negations != evidence.negations:
        return "negation"
    if not claim.names <= evidence.stems | known:
        return "name"
    for name, rule in _RULES.items():
        if rule(claim, evidence):
            return name
    return "substitution" if _substituted(claim, evidence, known) else ""


def _other_figures(claim: Statement, evidence: Statement) -> bool:
    return any(all(not _same(quantity, other) for other in evidence.quantities) for quantity in claim.quantities)


def _same(one: Quantity, other: Quantity) -> bool:
    if one.value != other.value or (one.measure and one.measure != other.measure):
        return False
    return one.bound == other.bound or frozenset({one.bound, other.bound}) in _SAME_BOUND


def _opposed(claim: Statement, evidence: Statement) -> bool:
    if any(
        (opposites := _OPPOSED.get(stem)) is not None
        and stem not in evidence.stems
        and opposites & (evidence.stems - claim.stems)
        for stem in claim.stems
    ):
        return True
    return any(_OPPOSITE_RELATIONS.get(relation, set()) & evidence.relations for relation in claim.relations - evidence.relations)


def _stronger(claim: Statement, evidence: Statement) -> bool:
    """Whether the claim says that more holds, or more surely."""
    if "may" in claim.force and evidence.force & {"must", "should"} and "may" not in evidence.force:
        return True
    for group in _STRONGER:
        if group not in claim.force:
            continue
        if group == "must" and evidence.imperative and claim.negations:
            continue
        if not evidence.force & _RELATED[group]:
            return True
        if group in ("all", "only") and group in evidence.force:
            here, there = claim.forced.get(group, _NOTHING), evidence.forced.get(group, _NOTHING)
            if here and there and not here & there:
                return True
    return False


def _done(claim: Statement, evidence: Statement) -> bool:
    """Whether what is to be done is said to be done."""
    return bool(evidence.to_do & claim.stems - claim.to_do - evidence.names) and not claim.force & {
        "planned",
        "may",
        "must",
        "will",
        "should",
    }


def _dropped_limits(claim: Statement, evidence: Statement) -> bool:
    """Whether the claim leaves out what limits the evidence: a doubt, a condition, a bound, a part of what it is about."""
    for group in _WEAKER:
        held = evidence.forced.get(group, _NOTHING)
        # A condition holds for the whole sentence, the others for what follows them.
        if group in evidence.force and (held & claim.stems or group == "if") and not claim.force & _RELATED[group]:
            return True
    if any(whole in claim.stems and not (claim.wholes & {(part, whole)}) for part, whole in evidence.wholes):
        return True
    for quantity in evidence.quantities:
        if quantity.bound in ("upper", "lower") and quantity.value not in claim.stems and quantity.value in evidence.order:
            place = evidence.order.index(quantity.value)
            before = next((stem for stem in reversed(evidence.order[:place]) if stem not in _COMPARATIVES), "")
            if before in claim.stems:
                return True
    return any(
        before in claim.stems and not after & claim.stems and not after & _NO_ROLE for before, after in evidence.restrictions
    )


def _substituted(claim: Statement, evidence: Statement, known: frozenset[str]) -> bool:
    """Whether a word of the claim stands where the evidence has another one that the claim has not.

    It may be a word of the same meaning; that cannot be told from one of another, and sources are to be followed closely.
    A word of the source itself, in `evidence` or `known`, takes nobody's place across the joint of two clauses.
    """
    anywhere = _neighbours([evidence.order])
    within = _neighbours(evidence.runs)
    gone = evidence.stems - claim.stems
    for place, stem in enumerate(claim.order):
        before = claim.order[place - 1] if place else ""
        after = claim.order[place + 1] if place + 1 < len(claim.order) else ""
        followers, leaders = within if stem in evidence.stems or stem in known else anywhere
        here = followers.get(before, _NOTHING), leaders.get(after, _NOTHING)
        # A word from elsewhere in the sentence may take another one's place, too.
        in_place = stem in evidence.stems and any(stem in near for near in here)
        displaced = _NOTHING if in_place else gone
        if any(displaced & near for near in here):
            return True
    return False


def _neighbours(runs: Sequence[Sequence[str]]) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    followers: dict[str, set[str]] = {}
    leaders: dict[str, set[str]] = {}
    for one, two in (pair for run in runs for pair in pairwise(run)):
        followers.setdefault(one, set()).add(two)
        leaders.setdefault(two, set()).add(one)
    return followers, leaders


def _roles_exchanged(claim: Statement, evidence: Statement) -> bool:
    """Whether who does and who suffers changed places: three shared words stand in reverse, but not because one of the two is passive."""
    here, there = _places(claim.order), _places(evidence.order)
    shared = sorted((stem for stem in here.keys() & there.keys() if stem not in _NO_ROLE), key=here.__getitem__)[:_MAX_ORDER]
    flipped = claim.passive != evidence.passive
    reverse = any(
        there[first] > there[middle] > there[last]
        for first, middle, last in combinations(shared, 3)
        if not first[:1].isdigit() and not last[:1].isdigit()
    )
    if reverse:
        return not flipped
    # "A was seen by B" for "A saw B": nothing is reversed though one is passive.
    agentive = (claim.passive and claim.agent) != (evidence.passive and evidence.agent)
    words = [stem for stem in shared if not stem[:1].isdigit()]
    ordered = len(words) >= 3 and all(there[one] < there[two] for one, two in pairwise(words))  # noqa: PLR2004 - two words have no middle
    return flipped and agentive and ordered


def _places(order: Sequence[str]) -> dict[str, int]:
    """Places of the words that stand there once."""
    counts: dict[str, int] = {}
    for stem in order:
        counts[stem] = counts.get(stem, 0) + 1
    return {stem: place for place, stem in enumerate(order) if counts[stem] == 1}


def _parts_exchanged(claim: Statement, evidence: Statement) -> bool:
    """Whether "from A to B" became "from B to A", or a thing stands behind another preposition than in the evidence."""
    for word, stem in claim.governed - evidence.governed:
        if any(other == stem for _, other in evidence.governed):
            return True
        if stem in evidence.stems and any(mine == word and other in claim.stems for mine, other in evidence.governed):
            return True
    return False


def _figures_of(statement: Statement) -> dict[str, set[str]]:
    """For each word that stands in one part with figures only: these figures."""
    values = {quantity.value for quantity in statement.quantities}
    found: dict[str, set[str]] = {}
    twice: set[str] = set()
    for part in statement.parts:
        figures = values & part
        for stem in part - values if figures else ():
            if stem in found:
                twice.add(stem)
            found[stem] = figures
    return {stem: figures for stem, figures in found.items() if stem not in twice}


def _figures_moved(claim: Statement, evidence: Statement) -> bool:
    """Whether most of what the claim says of one figure, the evidence says of another one of its kind."""
    kinds = {quantity.value: quantity.measure for quantity in evidence.quantities}
    if len(kinds) < 2:  # noqa: PLR2004 - one cannot be mistaken for another
        return False
    here, there = _figures_of(claim), _figures_of(evidence)
    measures = set(kinds.values())
    shared = [stem for stem in here if stem in there and stem not in measures]
    figures = kinds.keys() | measures
    for value in {quantity.value for quantity in claim.quantities} & kinds.keys():
        own_parts = [part for part in evidence.parts if value in part]
        beside = {other for part in claim.parts if value in part for other in part & kinds.keys()} - {value}
        if beside and own_parts and not any(beside & part for part in own_parts):
            return True
        # "14 metres in 2020 and 22 in 2021": the second part goes on with the words of the first.
        if any(part <= figures for part in own_parts):
            continue
        own = [stem for stem in shared if value in here[stem]]
        against = sum(value not in there[stem] and any(kinds[other] == kinds[value] for other in there[stem]) for stem in own)
        if against > sum(value in there[stem] for stem in own):
            return True
    return False


def _denial_moved(claim: Statement, evidence: Statement) -> bool:
    """Whether what the evidence denies is asserted, and the other way round, or the denial comes from another part of the evidence."""
    told = claim.denied & evidence.stems
    if len(told - evidence.denying) > len(told & evidence.denying):
        return True
    return bool(claim.denied & evidence.stems - evidence.denied) and bool(evidence.denied & claim.stems - claim.denied)


def _amounts_moved(claim: Statement, evidence: Statement) -> bool:
    """Whether "most" or "a few" is said of something else than in the evidence."""
    for group in ("some", "most"):
        here, there = claim.forced.get(group, _NOTHING), evidence.forced.get(group, _NOTHING)
        if here and there and not here & there and here <= evidence.stems:
            return True
    return False


def _figures_exchanged(claim: Statement, evidence: Statement) -> bool:
    """Whether a figure was taken from another part of the sentence: what is claimed of it stands nearer to another of its kind."""
    kinds = [(quantity.value, quantity.measure) for quantity in evidence.quantities]
    if len(claim.quantities) != 1 or len({value for value, _ in kinds}) < 2:  # noqa: PLR2004 - one cannot be mistaken for another
        return False
    figure = claim.quantities[0]
    words = claim.stems - {figure.value, figure.measure}
    own = [len(words & part) for part in evidence.parts if figure.value in part]
    others = {value for value, measure in kinds if value != figure.value and (not measure or measure == figure.measure)}
    rivals = [len(words & part) for part in evidence.parts if figure.value not in part and others & part]
    return bool(own) and any(count > max(own) + 1 for count in rivals)


_NOTHING: frozenset[str] = frozenset()
_RULES: Mapping[str, Callable[[Statement, Statement], bool]] = {
    "number": _other_figures,
    "opposite": _opposed,
    "stronger": _stronger,
    "done": _done,
    "limit": _dropped_limits,
    "roles": _roles_exchanged,
    "parts": _parts_exchanged,
    "figures": _figures_exchanged,
    "moved figures": _figures_moved,
    "moved denial": _denial_moved,
    "moved amounts": _amounts_moved,
}
