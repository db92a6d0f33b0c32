"""`nldiff app`: a web page on this machine to restore recordings with."""

import argparse
import math
import tempfile
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

from nldiff.app.server import Server
from nldiff.app.tasks import Tasks
from nldiff.app.worker import Setting, Worker
from nldiff.config import load_config
from nldiff.errors import NldiffError
from nldiff.interrupts import held
from nldiff.priors import SHIPPED
from nldiff.report.pages import check_pages
from nldiff.restoration.settings import RestoreConfig, check_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    add = parser.add_argument
    add("settings", nargs="*", metavar="KEY=VALUE", help="changes any setting, as in 'nldiff restore'")
    add("--port", type=int, default=8765, help="of the page on this machine; 0: any that is free (default: 8765)")
    add("--limit-mb", type=float, default=500.0, metavar="MB", help="largest recording that is taken (default: 500)")
    add("--prior", help=f"{', '.join(SHIPPED)}, a prior file, or auto (default: auto)")
    add("-d", "--device", help="auto (CUDA or the CPU), cpu, cuda, cuda:N or mps (default: auto)")


def run(options: argparse.Namespace) -> int:
    """Serve the page until Ctrl-C, SIGTERM or SIGHUP; then remove everything that was uploaded and made."""
    if not 0 < options.limit_mb < math.inf:
        raise NldiffError(f"--limit-mb {options.limit_mb:g}: a number above 0 expected")
    check_pages()
    config = load_config(RestoreConfig, None, options.settings)
    config = replace(config, device=options.device or config.device, prior=options.prior or config.prior)
    check_config(config)
    with ExitStack() as opened:
        with held():  # what is opened is known to the stack before an interrupt may come
            folder = Path(opened.enter_context(tempfile.TemporaryDirectory(prefix="nldiff-app-")))
            worker = Worker(Setting(config, folder))
            tasks = opened.enter_context(closing(Tasks(worker, folder)))
            server = opened.enter_context(Server(options.port, tasks, options.limit_mb))
            worker.start()
        print(f"{server.address} (Ctrl-C ends it and removes what was uploaded)", flush=True)
        server.serve_forever()
    return 0
