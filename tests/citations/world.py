"""Documents of an invented town, questions with the sentence that answers each, and questions that nothing answers.

Made from tables, the same on each run: several documents of each kind differ in names and figures only, so that the right sentence stands
beside ones that look like it. Half of the questions are worded otherwise than the sentence that answers them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """`name` is the file's."""

    name: str
    text: str


@dataclass(frozen=True)
class Question:
    """`answer`: the sentence of `document` that answers; empty for what nothing answers."""

    text: str
    document: str = ""
    answer: str = ""


@dataclass(frozen=True)
class _Kind:
    """`subjects` fill `{s}`; each fact is a sentence and two questions, with `{a}` and `{b}` from its own figures, one for each subject."""

    file: str
    heading: str
    subjects: tuple[str, ...]
    facts: tuple[tuple[str, str, str, tuple[tuple[str, str], ...]], ...]
    filler: tuple[str, ...]
    # What the documents say nothing of.
    open: tuple[str, ...]


def _row(*pairs: str) -> tuple[tuple[str, str], ...]:
    return tuple((one, other) for one, _, other in (pair.partition("|") for pair in pairs))


_KINDS = (
    _Kind(
        "manual-{s}.md",
        "# Operating manual: {s}",
        ("Corvus pump", "Tarn pump", "Ilex compressor", "Marl compressor", "Osprey boiler"),
        (
            (
                "The {s} weighs {a} kilograms without its frame.",
                "How much does the {s} weigh without its frame?",
                "What is the weight of the {s} in kilograms?",
                _row("41", "57", "88", "102", "233"),
            ),
            (
                "After {a} operating hours the filter of the {s} has to be replaced.",
                "After how many operating hours does the filter of the {s} have to be replaced?",
                "When has the filter of the {s} to be replaced?",
                _row("350", "420", "600", "750", "1,200"),
            ),
            (
                "Error {a} on the display of the {s} means that {b}.",
                "What does error {a} on the display of the {s} mean?",
                "The {s} shows error {a} on its display: what does that mean?",
                _row(
                    "E12|the inlet is blocked",
                    "E31|the motor is too hot",
                    "E07|the oil is low",
                    "E44|a valve is stuck",
                    "E90|the flame went out",
                ),
            ),
            (
                "The warranty of the {s} covers defects for {a} months from the date of purchase.",
                "For how many months does the warranty of the {s} cover defects?",
                "How long is the warranty of the {s}?",
                _row("18", "24", "30", "36", "60"),
            ),
            (
                "Technicians of {a} repair the {s} on site.",
                "Who repairs the {s} on site?",
                "Whose technicians repair the {s}?",
                _row("Brandt Service", "Halden Works", "Lorne Repairs", "Pike and Sons", "Quay Heating"),
            ),
            (
                "The noise of the {s} stays below {a} decibels at full load.",
                "Below how many decibels does the noise of the {s} stay at full load?",
                "How many decibels of noise does the {s} make at full load?",
                _row("52", "58", "71", "76", "49"),
            ),
        ),
        (
            "Read this manual before the first start.",
            "Keep children away from moving parts.",
            "Spare parts are listed in the annex.",
        ),
        ("What colour is the {s}?", "In which country is the {s} assembled?", "How much does the {s} cost?"),
    ),
    _Kind(
        "lease-{s}.txt",
        "LEASE AGREEMENT\n{s}",
        ("Mill Lane 4", "Quarry Road 18", "Abbey Court 7", "Harbour Walk 31", "Chapel Hill 2"),
        (
            (
                "The monthly rent for {s} amounts to {a} euros, payable on the {b} working day.",
                "How high is the monthly rent for {s}?",
                "What is the rent of {s} per month in euros?",
                _row("1,150|first", "980|second", "2,300|third", "1,640|fourth", "745|fifth"),
            ),
            (
                "The tenant of {s} pays a deposit of {a} euros before the keys are handed over.",
                "What deposit does the tenant of {s} pay before the keys are handed over?",
                "How many euros is the deposit that the tenant of {s} pays?",
                _row("3,450", "2,940", "6,900", "4,920", "2,235"),
            ),
            (
                "Either party may terminate the lease of {s} with {a} months' notice.",
                "With how many months' notice may either party terminate the lease of {s}?",
                "How many months' notice is needed to terminate the lease of {s}?",
                _row("three", "four", "six", "nine", "two"),
            ),
            (
                "The lease of {s} begins on {a} and runs for {b} years.",
                "When does the lease of {s} begin?",
                "On which date does the lease of {s} begin and how many years does it run?",
                _row("1 March 2023|five", "15 June 2022|three", "1 October 2021|ten", "1 January 2024|two", "1 May 2020|seven"),
            ),
            (
                "The landlord of {s} bears the cost of repairs to {a}.",
                "The cost of repairs to what does the landlord of {s} bear?",
                "Which repairs does the landlord of {s} pay for?",
                _row("the roof", "the lift", "the heating", "the facade", "the chimney"),
            ),
            (
                "In {s} the tenant may keep {a} with the written consent of the landlord.",
                "What may the tenant keep in {s} with the written consent of the landlord?",
                "Which animals may the tenant keep in {s} with written consent?",
                _row("two cats", "one dog", "small birds", "rabbits", "an aquarium"),
            ),
        ),
        ("This agreement is governed by local law.", "Amendments must be made in writing.", "Both parties have received a copy."),
        ("How many bathrooms does {s} have?", "Who lived in {s} before?", "Which bank financed {s}?"),
    ),
    _Kind(
        "news-{s}.txt",
        "{s}: report from the region",
        ("Lindmoor", "Castle Wray", "Tolver", "Ashby Fen", "Norholm"),
        (
            (
                "The council of {s} approved the new {a} by {b} votes on Tuesday evening.",
                "What did the council of {s} approve on Tuesday evening?",
                "By how many votes did the council of {s} approve the plan?",
                _row(
                    "tram line|31 to 12",
                    "swimming pool|19 to 17",
                    "market hall|27 to 4",
                    "fire station|22 to 9",
                    "school|15 to 14",
                ),
            ),
            (
                "Construction in {s} will cost {a} million crowns and take {b} years.",
                "How much will construction in {s} cost?",
                "How many years will construction in {s} take?",
                _row("86|three", "41|two", "129|four", "17|one and a half", "63|five"),
            ),
            (
                "Mayor {a} of {s} called the vote {b}.",
                "Who is the mayor of {s}?",
                "What did the mayor of {s} call the vote?",
                _row(
                    "Petra Voss|a turning point",
                    "Ivo Lund|a long overdue step",
                    "Hanna Reyes|a good day for families",
                    "Jonas Keller|an expensive experiment",
                    "Mira Solberg|a signal to the young",
                ),
            ),
            (
                "Around {a} residents of {s} had signed a petition against it.",
                "How many residents of {s} had signed a petition?",
                "How many people in {s} signed the petition against it?",
                _row("2,100", "640", "3,850", "415", "1,270"),
            ),
            (
                "In {s} the work is done by the company {a}, which employs {b} people.",
                "Which company does the work in {s}?",
                "How many people does the company that does the work in {s} employ?",
                _row("Granit Bau|340", "Delve Civil|95", "Arco Stone|510", "Brix Group|220", "Terra Nord|77"),
            ),
            (
                "The opposition in {s} fears that {a} will suffer.",
                "What does the opposition in {s} fear?",
                "What will suffer, as the opposition in {s} fears?",
                _row("small shops", "the old trees", "the bus service", "the library", "the harbour"),
            ),
        ),
        ("Our reporter was in the hall.", "The meeting lasted until midnight.", "Photographs are in the gallery."),
        ("Which newspaper was founded in {s}?", "How old is the church of {s}?", "Who won the marathon in {s}?"),
    ),
    _Kind(
        "trial-{s}.md",
        "# Trial report {s}",
        ("NX-17", "BR-204", "KL-9", "TV-61", "PM-330"),
        (
            (
                "In trial {s} {a} patients received the drug and {b} received a placebo.",
                "How many patients received the drug in trial {s}?",
                "How many people in trial {s} received a placebo?",
                _row("312|308", "128|131", "940|902", "56|58", "205|210"),
            ),
            (
                "The most common side effect in trial {s} was {a}, reported by {b} percent of patients.",
                "What was the most common side effect in trial {s}?",
                "Which side effect did most patients of trial {s} report?",
                _row("dizziness|6", "dry mouth|11", "headache|4", "nausea|17", "a rash|9"),
            ),
            (
                "Trial {s} was funded by the {a}.",
                "Who funded trial {s}?",
                "Which organisation funded trial {s}?",
                _row("Larsen Foundation", "Ministry of Health", "Ostrow Trust", "Heart League", "Wexler Institute"),
            ),
            (
                "Patients with {a} were excluded from trial {s}.",
                "Which patients were excluded from trial {s}?",
                "Who was excluded from taking part in trial {s}?",
                _row("kidney failure", "asthma", "diabetes", "epilepsy", "liver disease"),
            ),
            (
                "After {a} weeks systolic pressure in trial {s} had fallen by {b} mmHg in the treatment group.",
                "By how much had systolic pressure fallen in trial {s}?",
                "What happened to systolic pressure in the treatment group of trial {s}?",
                _row("12|11", "8|5", "24|14", "6|3", "16|9"),
            ),
            (
                "{a} led trial {s} at the university hospital.",
                "Who led trial {s} at the university hospital?",
                "Who was the leader of trial {s}?",
                _row("Dr. Ingrid Holm", "Dr. Samuel Adeyemi", "Dr. Clara Winter", "Dr. Rui Tavares", "Dr. Nadia Petrov"),
            ),
        ),
        ("The protocol was registered in advance.", "All participants gave their consent.", "Details are in the appendix."),
        (
            "What does the drug of trial {s} cost?",
            "How is the drug of trial {s} stored?",
            "Which wholesaler distributes the drug of trial {s}?",
        ),
    ),
    _Kind(
        "handbook-{s}.md",
        "# Staff handbook of {s}",
        ("Fernway", "Gold Anchor", "Pinecrest", "Delta Mills", "Sable Press"),
        (
            (
                "Employees of {s} receive {a} days of paid leave per year.",
                "How many days of paid leave do employees of {s} receive per year?",
                "How many days of leave do employees of {s} get?",
                _row("27", "30", "25", "28", "32"),
            ),
            (
                "Remote work is allowed at {s} on up to {a} days a week.",
                "On how many days a week is remote work allowed at {s}?",
                "How often may people at {s} work remotely in a week?",
                _row("two", "three", "four", "five", "one and a half"),
            ),
            (
                "At {s} a lost laptop must be reported to the security desk within {a} hours.",
                "Within how many hours must a lost laptop be reported at {s}?",
                "How soon must a lost laptop be reported to the security desk at {s}?",
                _row("two", "four", "six", "twelve", "24"),
            ),
            (
                "Travel expenses at {s} are reimbursed within {a} days after the receipts were handed in.",
                "Within how many days are travel expenses reimbursed at {s}?",
                "When are travel expenses reimbursed at {s}?",
                _row("10", "14", "21", "30", "45"),
            ),
            (
                "{a} is the data protection officer of {s}.",
                "Who is the data protection officer of {s}?",
                "What is the name of the data protection officer of {s}?",
                _row("Olga Brandt", "Femi Osei", "Liam Doyle", "Yara Haddad", "Tomas Novak"),
            ),
            (
                "Passwords at {s} must have at least {a} characters.",
                "How many characters must passwords at {s} have?",
                "What is the minimum number of characters for passwords at {s}?",
                _row("12", "14", "16", "18", "20"),
            ),
        ),
        (
            "This handbook is revised every spring.",
            "Ask your manager if something is unclear.",
            "Earlier editions are no longer valid.",
        ),
        ("Which coffee is served at {s}?", "In which year was {s} founded?", "Who designed the logo of {s}?"),
    ),
    _Kind(
        "minutes-{s}.txt",
        "Minutes of the {s}",
        ("rowing club", "choir society", "allotment board", "chess union", "parish committee"),
        (
            (
                "The {s} elected {a} as its treasurer.",
                "Who was elected treasurer of the {s}?",
                "Whom did the {s} elect as its treasurer?",
                _row("Bea Thornton", "Gus Albrecht", "Nell Farrow", "Omar Saidi", "Ruth Pellegrini"),
            ),
            (
                "The annual fee of the {s} rises from {a} to {b} euros.",
                "To how many euros does the annual fee of the {s} rise?",
                "How does the annual fee of the {s} change?",
                _row("60|75", "24|30", "110|125", "18|22", "12|15"),
            ),
            (
                "The next meeting of the {s} takes place on {a} in the {b}.",
                "When does the next meeting of the {s} take place?",
                "Where does the next meeting of the {s} take place?",
                _row("4 April|boathouse", "19 May|old chapel", "7 June|tool shed", "22 March|reading room", "11 July|vestry"),
            ),
            (
                "The {s} bought {a} for {b} euros.",
                "What did the {s} buy?",
                "How many euros did the {s} pay for what it bought?",
                _row(
                    "a second-hand boat|2,800",
                    "twelve music stands|540",
                    "a water tank|1,190",
                    "thirty clocks|960",
                    "a projector|710",
                ),
            ),
        ),
        ("The minutes of the last meeting were approved.", "Coffee was served afterwards.", "There was no other business."),
        ("How many members under eighteen does the {s} have?", "Which brewery sponsors the {s}?"),
    ),
)
_GENERAL = (
    "What is the capital of Mongolia?",
    "Who wrote the novel Moby Dick?",
    "What is the boiling point of ethanol?",
    "How many moons does Jupiter have?",
    "Which river flows through Vienna?",
    "Who painted the Night Watch?",
    "How tall is Mount Kilimanjaro?",
    "When did the Berlin Wall fall?",
    "How many litres per minute does the Zephyr turbine deliver?",
    "What deposit does the tenant of Foundry Lane 99 pay?",
    "Who funded trial ZZ-88?",
    "How many days of paid leave do employees of Kestrel Foods receive?",
)


def documents() -> list[Document]:
    """One for each subject of each kind."""
    return [
        Document(kind.file.format(s=subject.lower().replace(" ", "-")), _text(kind, at))
        for kind in _KINDS
        for at, subject in enumerate(kind.subjects)
    ]


def questions() -> list[Question]:
    """Two hundred with the sentence that answers."""
    found = [question for at in range(5) for kind in _KINDS for question in _asked(kind, at)]
    return found[:200]


def unanswerable() -> list[Question]:
    """Fifty."""
    found = [template.format(s=subject) for at in range(5) for kind in _KINDS for template, subject in _opened(kind, at)]
    return [Question(text) for text in [*_GENERAL, *found][:50]]


def _opened(kind: _Kind, at: int) -> Iterator[tuple[str, str]]:
    yield kind.open[at % len(kind.open)], kind.subjects[at]
    yield kind.open[(at + 1) % len(kind.open)], kind.subjects[at]


def _text(kind: _Kind, at: int) -> str:
    sentences = [_sentence(fact, kind, at) for fact in kind.facts]
    # Facts in another order in each document, and what says nothing between them.
    turned = sentences[at:] + sentences[:at]
    paragraphs = [f"{kind.filler[place % 3]} {sentence}" if place % 2 else sentence for place, sentence in enumerate(turned)]
    return "\n\n".join([kind.heading.format(s=kind.subjects[at]), *paragraphs]) + "\n"


def _sentence(fact: tuple[str, str, str, tuple[tuple[str, str], ...]], kind: _Kind, at: int) -> str:
    one, other = fact[3][at]
    return fact[0].format(s=kind.subjects[at], a=one, b=other)


def _asked(kind: _Kind, at: int) -> Iterator[Question]:
    name = kind.file.format(s=kind.subjects[at].lower().replace(" ", "-"))
    for number, fact in enumerate(kind.facts):
        one, other = fact[3][at]
        for wording in (1, 2) if (at + number) % 2 else (2 - at % 2,):
            yield Question(fact[wording].format(s=kind.subjects[at], a=one, b=other), name, _sentence(fact, kind, at))
