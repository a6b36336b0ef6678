"""The logger that writes `log.csv`, which reports and resumed trainings read."""

import csv
import dataclasses

from tfpipe.core import storage
from tfpipe.training import log
from tfpipe.training.log import Epoch
from tfpipe.training.loggers import Logger
from tfpipe.training.run_folder import RunFolder


class CsvLogger(Logger):
    """Writes a row for each epoch."""

    def __init__(self, run: RunFolder, epochs: int):
        """Open the file; rows after the first `epochs` go with the next one."""
        self._path = run.folder / log.LOG
        self._epochs = [epoch for epoch in log.read(run.folder) if epoch.epoch <= epochs]

    def add(self, epoch: Epoch) -> None:
        """Add a row; the file is complete at any moment."""
        self._epochs.append(epoch)
        with storage.atomic_file(self._path) as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(dataclasses.asdict(epoch))
            writer.writerows(map(dataclasses.astuple, self._epochs))
