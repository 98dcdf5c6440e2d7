"""`pluct statement`: where a user's credits came from and went, in words for that user."""

import click

from pluct.commands import text
from pluct.engine import PAGE_MAX
from pluct.statements import Language, statement
from pluct.terminal import as_json_option, err, example, out, plain, print_json, request_id, with_engine
from pluct.web.statements import statement_answer


@click.command(
    "statement", short_help="A user's statement, in English or Swahili.",
    epilog=example("pluct statement amina", "pluct statement amina --lang sw", "pluct statement amina --json"),
)  # fmt: skip
@click.argument("user")
@click.option("--lang", type=click.Choice(["en", "sw"]), default="en", show_default=True, help="Language.")
@click.option("--limit", type=click.IntRange(1, PAGE_MAX), default=50, show_default=True, help="Entries to tell of.")
@click.option("--cursor", help="The nextCursor of an earlier page.")
@as_json_option
def show_statement(user: str, lang: Language, limit: int, cursor: str | None, as_json: bool) -> None:
    """Where USER's credits came from and went, in sentences to be sent by SMS. Times are East Africa Time."""
    cursor = None if cursor is None else text(cursor, "--cursor")
    wallet, page, following = with_engine(lambda engine: engine.statement(text(user, "USER"), limit, cursor))
    answer = statement_answer(user, statement(wallet, page, lang), following, request_id())
    if as_json:
        print_json(answer)
        return
    out.print(plain(answer.text), soft_wrap=True)
    err.print(f"As SMS: {answer.messages}", style="dim")
    if following is not None:
        err.print(f"Older entries: --cursor {following}", style="dim")
