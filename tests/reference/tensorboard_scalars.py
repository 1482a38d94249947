"""Asks the real TensorBoard about event files.

    pip install tensorboard==2.21.0 protobuf==7.36.2
    python3 tests/reference/tensorboard_scalars.py read DIRECTORY
    python3 tests/reference/tensorboard_scalars.py golden

`read` prints the scalars TensorBoard finds in a directory of event files, after dropping what a
resumed run repeats: {"tag": [[step, value], ...]}. `golden` prints, frame by frame, the bytes the
official encoder makes of the events in the tests of core/record/src/tensorboard.rs.
"""

import io
import json
import sys

from tensorboard.backend.event_processing import event_accumulator
from tensorboard.compat.proto.event_pb2 import Event, SessionLog
from tensorboard.compat.proto.summary_pb2 import Summary
from tensorboard.summary.writer.record_writer import RecordWriter

WALL_TIME = 1_700_000_000.5


def read(directory):
    """Reads every scalar of a directory; size 0 keeps all points instead of a sample."""
    guidance = {event_accumulator.SCALARS: 0}
    events = event_accumulator.EventAccumulator(directory, size_guidance=guidance)
    events.Reload()
    tags = events.Tags()[event_accumulator.SCALARS]
    return {tag: [[point.step, point.value] for point in events.Scalars(tag)] for tag in tags}


def frame(**fields):
    """Encodes one event as it lies in a file, in hexadecimal digits."""
    buffer = io.BytesIO()
    RecordWriter(buffer).write(Event(wall_time=WALL_TIME, **fields).SerializeToString())
    return buffer.getvalue().hex()


def golden():
    """Lists the events of the tests with their bytes."""
    start = SessionLog(status=SessionLog.START)
    summary = Summary()
    summary.value.add(tag="train/loss", simple_value=0.5)
    summary.value.add(tag="lr", simple_value=0.0)
    return {
        "file version": frame(file_version="brain.Event:2"),
        "session start at step 300": frame(step=300, session_log=start),
        "session start at step 0": frame(step=0, session_log=start),
        "scalars at step 300": frame(step=300, summary=summary),
    }


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["read", directory]:
            print(json.dumps(read(directory)))
        case ["golden"]:
            print(json.dumps(golden(), indent=1))
        case _:
            sys.exit(__doc__)
