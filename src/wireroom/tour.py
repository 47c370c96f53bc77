"""What `make run` shows when everything is ready."""

from __future__ import annotations

from collections.abc import Sequence

from wireroom.demo import DEMO_ADDRESS, DOCUMENTS

QUESTION = "What does early repayment cost, and where does the central bank hold its policy rate?"


async def show(urls: Sequence[str], announcements: Sequence[str], *, interactive: bool) -> None:
    """Print the URLs, whatever the roles announced (the admin token), and the tour."""
    for message in announcements:
        print(message, flush=True)
    if not interactive or not urls:
        return
    secure = "".join(f"   {url} (self-signed certificate)" for url in urls[1:])
    lines = [
        "",
        f"Wireroom is ready:  {urls[0]}{secure}",
        f"Documentation:      {urls[0]}/docs",
        "",
        "In a second terminal, in this folder:",
        "  . .venv/bin/activate",
        f"  wireroom demo &                       # sample feed and documents on {DEMO_ADDRESS}",
        "  export OPENAI_API_KEY=$(wireroom join --admin-token TOKEN --email you@example.com)",
        "The tour:",
        f"  wireroom upload {DOCUMENTS.relative_to(DOCUMENTS.parents[3])}/credit-handbook.pdf",
        f"  wireroom feed http://{DEMO_ADDRESS}/feed.xml",
        f'  wireroom ask "{QUESTION}"',
        "",
    ]
    token = next((message.split()[-1] for message in announcements if "wr_admin_" in message), None)
    text = "\n".join(lines)
    print(text.replace("TOKEN", token) if token else text, flush=True)
