"""`fivefold models`: versions, what their files hold, and signatures over them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fivefold.cli.output import JsonFlag, console, print_json, table
from fivefold.errors import ModelFileError
from fivefold.types import plain

group = typer.Typer(help="Model versions, what their files hold, and signatures over them.", no_args_is_help=True)
SpecArgument = Annotated[str, typer.Argument(help="smollm2, hf:org/name, version:ID or a path.")]


def register(app: typer.Typer) -> None:
    """Add this group's commands."""
    app.add_typer(group, name="models")


@group.command("list")
def list_(json: JsonFlag = False) -> None:
    """List the versions in the store."""
    from fivefold.evidence import Store

    with Store.open() as store:
        found = store.versions()
    if json:
        print_json({"versions": found})
        return
    rows = [(v.id[:12], v.kind, v.trained, v.name, v.parent[:12], v.source) for v in found]
    names = ("fingerprint", "kind", "trained", "name", "parent", "source")
    table("Model versions", names, rows or [("none", *[""] * 5)])


@group.command()
def add(spec: SpecArgument, json: JsonFlag = False) -> None:
    """Load a model, fingerprint it, and record it as a base version, unless it is known already."""
    from fivefold.evidence import Store
    from fivefold.runtime.load import load
    from fivefold.types import ModelVersion

    model = load(spec)
    with Store.open() as store:
        known = [v for v in store.versions() if v.id == model.fingerprint]  # a trained one keeps its parent
        made = ModelVersion(id=model.fingerprint, name=model.name, kind="base", source=spec)
        version = known[0] if known else store.add_version(made)
    if json:
        print_json(version)
    else:
        console().print(f"{version.name}: {version.id}")


@group.command()
def scan(spec: SpecArgument, json: JsonFlag = False) -> int:
    """Look into a model's files without loading them; exit code 3 unless they are clean."""
    from fivefold.runtime.scan import scan_model
    from fivefold.thread.versions import files_of

    report = scan_model(files_of(spec))
    if json:
        print_json(report)
    else:
        table(
            f"{spec}: {report.verdict}",
            ("file", "bytes", "sha256"),
            [(f.file, f.size, f.sha256[:16]) for f in report.files],
        )
        for issue in report.issues:
            console().print(f"  {issue.file}: {issue.level}: {issue.what}", markup=False)
    return 0 if report.verdict == "clean" else 3


@group.command()
def sign(
    spec: SpecArgument,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write the signature (DSSE JSON).")] = None,
    json: JsonFlag = False,
) -> None:
    """Sign the digests of a model's files with this home's key, as an in-toto statement in a DSSE envelope."""
    import orjson

    from fivefold.evidence import Store
    from fivefold.evidence.signing import sign_statement
    from fivefold.runtime.scan import scan_model
    from fivefold.thread.versions import files_of

    report = scan_model(files_of(spec))
    if report.verdict != "clean":
        raise ModelFileError(
            f"{spec} is not clean, so it is not signed", got=report.verdict, next_step=f"fivefold models scan {spec}"
        )
    subjects = {f.file: f.sha256 for f in report.files}
    with Store.open() as store:
        envelope = sign_statement(subjects, "urn:fivefold:model:v1", {"model": spec}, store.signer)
        record = store.append("model-signature", {"model": spec, "subjects": subjects, "envelope": plain(envelope)})
    target = out or Path(f"{Path(spec).name.replace(':', '-')}.dsse.json")
    target.write_bytes(orjson.dumps(plain(envelope), option=orjson.OPT_INDENT_2))
    if json:
        print_json({"signature": str(target), "record": record.id, "files": subjects})
    else:
        console().print(f"signed {len(subjects)} file(s): {target} (record {record.id[:12]})")
