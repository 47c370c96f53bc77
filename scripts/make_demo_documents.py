"""Write the sample documents of the tour. Run once; the results are committed."""

from __future__ import annotations

from pathlib import Path

from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import getSampleStyleSheet
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Spacer

TARGET = Path(__file__).resolve().parent.parent / "src" / "wireroom" / "demo" / "documents"
PAGES = (
    (
        "Harbour Lending: credit handbook",
        "This handbook tells loan officers how small-business loans are granted. It is invented for the Wireroom tour.",
        "A small-business loan has a minimum of 5,000 crowns and a maximum of 250,000 crowns. The term is between 6 and 60 months.",
        "Applicants must have traded for at least 18 months and must not be in insolvency proceedings.",
    ),
    (
        "Decision and pricing",
        (
            "Amounts up to 15,000 crowns are decided at once by the scoring model. Larger amounts are decided by a loan officer within"
            " two working days, and amounts above 100,000 crowns need the approval of a second officer."
        ),
        "The interest rate is the policy rate plus a margin of 3.5 to 7.5 percentage points, depending on the risk class.",
        "An arrangement fee of 1.2 percent of the amount is charged once, when the loan is paid out.",
    ),
    (
        "Arrears and early repayment",
        (
            "A borrower may repay early at any time. The fee for early repayment is 0.5 percent of the outstanding balance, and it is"
            " waived in the last six months of the term."
        ),
        (
            "After 30 days of arrears the borrower receives a reminder. After 90 days the loan is handed over to collections, and a late"
            " fee of 40 crowns is added for each reminder."
        ),
        "Hardship requests are answered within five working days. Payments can be suspended for up to three months.",
    ),
)


def main() -> None:
    """Write `credit-handbook.pdf`."""
    TARGET.mkdir(parents=True, exist_ok=True)
    styles = getSampleStyleSheet()
    story = []
    for title, *paragraphs in PAGES:
        story += [Paragraph(title, styles["Heading1"]), Spacer(1, 12)]
        for paragraph in paragraphs:
            story += [Paragraph(paragraph, styles["BodyText"]), Spacer(1, 8)]
        story.append(PageBreak())
    SimpleDocTemplate(str(TARGET / "credit-handbook.pdf"), pagesize=A4, title=PAGES[0][0], invariant=1).build(story)


if __name__ == "__main__":
    main()
