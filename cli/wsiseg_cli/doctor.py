"""``wsiseg doctor``"""

from __future__ import annotations

import click

from wsiseg_cli import options
from wsiseg_cli.terminal import tell, tell_json


@click.command("doctor")
@options.json_option
def command(as_json: bool) -> int:
    """Check what a run needs: libraries, image codecs, cores, memory, GPU, a default model that loads.

    Exit code 5 if something essential is missing.
    """
    from wsiseg.run.doctor import examine

    findings = examine()
    if as_json:
        tell_json([finding.to_dict() for finding in findings])
    else:
        for finding in findings:
            tell(f"{'ok  ' if finding.ok else 'FAIL' if finding.essential else 'note'}  {finding.text}")
    return 5 if any(finding.essential and not finding.ok for finding in findings) else 0
