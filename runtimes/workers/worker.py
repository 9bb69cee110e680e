# The worker for Python tools (CPython 3.9 and later): loads one tool, answers one call, exits.
#
#   python3 -I -B -X utf8 start.py TOOL [EXPORT]
#
# start.py runs this file as if it were started itself, but does not compile it each time.
#
# -I keeps out what would run, or change what runs: PYTHON* variables, the user's site-packages, the working folder and
# the worker's own. The site-packages of a virtual environment stay. -B leaves no __pycache__ behind. -X utf8 is for the
# files a tool opens; the streams are UTF-8 without it too. The tool's own folder is the first on sys.path.
#
# It speaks JSON lines with the engine over two FIFOs in the folder $RUN_TOOL_CHANNEL:
#
#   ← {"type":"hello","protocol":1,"runtime":"python","version":"3.13.0"}  both FIFOs are open, the tool is loaded next
#   ← {"type":"ready","input_schema":{…},"output_schema":{…}}            each schema only if the tool declares it
#   → {"type":"call","id":…,"tool":…,"input":…,"config":…}               on `call`; all the others are on `reply`
#   → {"type":"describe"}                                                in place of a call: the tool is not called, and
#                                                                        the value is {description, input_schema, …}
#   ← {"type":"progress","fraction":0.4,"message":"…","data":…}          any number; each field is optional
#   ← {"type":"log","level":"debug|info|warn|error","message":"…","data":…}
#   ← {"type":"result","value":…}                                        the last line, exit code 0; or this, with 1:
#   ← {"type":"error","phase":"load|run|result","name":…,"message":…,"stack":…,"data":…}
#
# stdout and stderr are the tool's own. What it printed is in the pipes before the last line is sent.
#
# A tool is `def run(input, ctx)`, or the one public function of its file, or the function EXPORT names. It may be async,
# a generator (what it yields is progress, what it returns the value) or both (then there is no value), and may leave out
# ctx, or both parameters.
#
# SIGTERM, from when the call was read on, is how a cancel arrives. It sets ctx.signal and interrupts nothing by itself:
# a tool looks at ctx.cancelled, or waits in ctx.signal.wait(seconds), on a thread if it is async.
#
# After the last line, and on sys.exit(), the process ends at once: threads, children and atexit do not hold it up.

# Whatever the end of a call depends on is taken here, before the tool can replace it. Only what the interpreter has
# loaded by now anyway, or has built in, is imported: enum, re, json, threading or signal take longer than a short call.
import _codecs
import _frozen_importlib
import _frozen_importlib_external
import _json
import _signal
import _thread
import gc
import sys
from io import BufferedWriter, FileIO, TextIOWrapper
from os import O_CLOEXEC, O_RDONLY, O_WRONLY, _exit, close, environ, fstat, getcwd, getpid, read, register_at_fork
from os import open as open_fd
from os import path as paths
from os import write
from sys import modules
from time import sleep

# ------------------------------------------------------------------------------------------------------- the channel

call_fd = reply_fd = -1
call_identity = reply_identity = None
process = 0
sending = _thread.RLock()
unsent = []
busy = False


def identity(fd):
    """Device and inode. After a tool closed what is not its own, its next file may have our descriptor's number."""
    stat = fstat(fd)
    return stat.st_dev, stat.st_ino


def open_channel():
    global call_fd, reply_fd, call_identity, reply_identity, process
    folder = environ.pop("RUN_TOOL_CHANNEL")
    call_fd = open_fd(folder + "/call", O_RDONLY | O_CLOEXEC)
    reply_fd = open_fd(folder + "/reply", O_WRONLY | O_CLOEXEC)
    call_identity, reply_identity = identity(call_fd), identity(reply_fd)
    process = getpid()


def send(line):
    """Sends a line whole. A signal handler or a finalizer that gets here in the midst of a line has to queue up."""
    global busy
    with sending:
        unsent.append(line)
        if busy:
            return
        busy = True
        try:
            while unsent:
                write_line(unsent.pop(0))
        finally:
            busy = False


def write_line(line):
    if identity(reply_fd) != reply_identity:
        raise OSError("the reply channel was closed")
    rest = memoryview(encoded(line) + b"\n")
    while rest:
        try:
            rest = rest[write(reply_fd, rest) :]
        except BlockingIOError:
            sleep(0.001)


def encoded(text):
    """UTF-8. What is only half of a surrogate pair becomes U+FFFD, written as worker.mjs does."""
    try:
        return text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "run-tool").encode()


_codecs.register_error("run-tool", lambda error: ("\\ufffd", error.end))


def read_line():
    line = bytearray()
    while True:
        part = read(call_fd, 1 << 20)
        if not part:
            raise EOFError("the call channel was closed")
        end = part.find(b"\n")
        if end >= 0:
            return (line + part[:end]).decode()
        line += part


# ------------------------------------------------------------------------------------------------- stdout and stderr


class Stream(FileIO):
    """A standard stream that loses nothing when a child has made the pipe, which they share, non-blocking."""

    def write(self, data):
        try:
            while True:
                count = write_raw(self, data)
                if count is not None:
                    return count
                sleep(0.001)
        except BrokenPipeError:
            return len(data)  # nobody reads any more


write_raw = FileIO.write
streams = []


def replace_stream(name, fd):
    """Each line goes out when it is complete. A stream that was closed from the beginning stays None."""
    if getattr(sys, name) is None:
        return
    raw = Stream(fd, "wb", closefd=False)
    raw.name = "<%s>" % name
    stream = TextIOWrapper(BufferedWriter(raw), "utf-8", "backslashreplace", line_buffering=True)
    stream.mode = "w"
    setattr(sys, name, stream)
    setattr(sys, "__%s__" % name, stream)
    streams.append(stream)


def drain():
    for stream in (sys.stdout, sys.stderr, *streams):
        attempt(lambda: stream.flush())


# -------------------------------------------------------------------------------------------------------------- JSON

ATOMS = frozenset((str, int, bool, type(None)))
TEXT = frozenset((str,))
DEEPEST_VALUE = 5000


class Raw(str):
    """A number as JavaScript writes it, and Python does not."""


class Format:
    """What the scanner wants to know."""

    strict = True
    object_hook = object_pairs_hook = array_hook = None
    parse_float = float
    parse_int = int
    parse_constant = float


scan = _json.make_scanner(Format)
quote = _json.encode_basestring


def parse(line):
    return scan(line, 0)[0]


def quote_raw(text):
    return str.__str__(text) if type(text) is Raw else quote(text)


def dumps(value):
    """The bytes JSON.stringify would write. Raises for what JSON cannot carry."""
    state = [False, set()]
    value = plain(value, state)
    write_text = quote_raw if state[0] else quote
    return "".join(_json.make_encoder(None, refuse, write_text, None, ":", ",", False, False, False)(value, 0))


def refuse(value):
    raise TypeError("JSON has nothing for a %s; make it a dict, a list, a text or a number" % type_name(value))


def type_name(value):
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else "%s.%s" % (kind.__module__, kind.__qualname__)


def plain(value, state):
    """The value in dicts, lists and atoms; unchanged as far as it is that already."""
    kind = type(value)
    if kind in ATOMS:
        return value
    if kind is float:
        return number(value, state)
    path = state[1]
    if id(value) in path:
        raise ValueError("a %s that contains itself" % type_name(value))
    path.add(id(value))
    if kind is dict:
        made = members(value, state)
    elif kind is list or kind is tuple:
        made = items(value, state)
    else:
        made = converted(value, state)
    path.discard(id(value))
    return made


def members(value, state):
    if ATOMS.issuperset(map(type, value.values())) and TEXT.issuperset(map(type, value)):
        return value
    return {
        key if type(key) is str else key_text(key, state): item if type(item) in ATOMS else plain(item, state)
        for key, item in value.items()
    }


def items(value, state):
    if ATOMS.issuperset(map(type, value)):
        return value
    return [item if type(item) in ATOMS else plain(item, state) for item in value]


def key_text(key, state):
    key = plain(key, state)
    if isinstance(key, str):
        return str.__str__(key)
    if key is None or key is True or key is False:
        return {None: "null", True: "true", False: "false"}[key]
    if isinstance(key, (int, float)):
        return repr(key)
    raise TypeError("JSON has no %s for a key" % type_name(key))


def number(value, state):
    if value.is_integer():
        if -9007199254740992.0 <= value <= 9007199254740992.0:
            return int(value)
        text = repr(value)
        if not -1e21 < value < 1e21:
            return value  # 1e+21 in both
        mantissa, _, exponent = text.partition("e")
        whole, _, fraction = mantissa.partition(".")
        if exponent:
            return int(whole + fraction.ljust(int(exponent), "0"))
        return int(whole)
    if -1e-4 < value < 1e-4:
        state[0] = True
        mantissa, _, exponent = repr(value).partition("e-")
        exponent = int(exponent or 0)
        if not exponent or exponent > 6:
            return Raw("%se-%d" % (mantissa, exponent) if exponent else mantissa)
        sign, digits = ("-", mantissa[1:]) if value < 0 else ("", mantissa)
        return Raw("%s0.%s%s" % (sign, "0" * (exponent - 1), digits.replace(".", "")))
    if value != value or value in (INFINITY, -INFINITY):
        raise ValueError("JSON has nothing for %r; make it a finite number, a text or None" % value)
    return value


INFINITY = float("inf")


def converted(value, state):
    kind = type(value)
    if is_a(value, "enum", "Enum"):
        return plain(value.value, state)
    if callable(getattr(kind, "model_dump", None)):
        return plain(value.model_dump(mode="json"), state)
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int.__pos__(value)
    if isinstance(value, float):
        return number(float.__pos__(value), state)
    if isinstance(value, dict):
        return members(dict(value), state)
    if isinstance(value, (list, tuple)):
        return items(list(value), state)
    if hasattr(kind, "__dataclass_fields__"):
        names = [field.name for field in modules["dataclasses"].fields(value)]
        return members({name: getattr(value, name) for name in names}, state)
    if is_a(value, "datetime", "date") or is_a(value, "datetime", "time"):  # a datetime is a date
        return value.isoformat()
    if is_a(value, "uuid", "UUID") or is_a(value, "pathlib", "PurePath") or is_a(value, "decimal", "Decimal"):
        return str(value)
    return refuse(value)


def is_a(value, module, name):
    """Without loading the module: as long as nobody has, nothing is of its types."""
    kind = getattr(modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(value, kind)


# --------------------------------------------------------------------------------------------------- what was raised

LONGEST_TEXT = 65536
DEEPEST = 6
MOST_VALUES = 2000
MOST_ITEMS = 100
ABSENT = object()


class Walk:
    def __init__(self):
        self.values = 0
        self.path = []


def describe(error, walk=None):
    """{ name, message, stack, data } of any exception. A hostile one can raise at every step."""
    walk = walk or Walk()
    report = {
        "name": attempt(lambda: shortened(type(error).__name__), "Exception"),
        "message": attempt(lambda: shortened(message_of(error)), ""),
    }
    stack = attempt(lambda: shortened(stack_of(error)))
    if stack:
        report["stack"] = stack
    data = within(error, walk, lambda: fields_of(error, walk))
    if data:
        report["data"] = data
    return report


def message_of(error):
    if issubclass(type(error), SyntaxError) and error.filename and error.lineno:
        return "%s (%s:%d)" % (error.msg, error.filename, error.lineno)
    return str(error)


def fields_of(error, walk):
    own = attempt(lambda: dict(error.__dict__), {})
    data = portable_members({key: own[key] for key in own if isinstance(key, str) and key[:1] != "_"}, walk)
    cause = attempt(lambda: error.__cause__)
    if cause is not None:
        data["cause"] = describe(cause, walk)
    errors = attempt(lambda: error.exceptions)
    if isinstance(errors, tuple):
        data["errors"] = portable(errors, walk)
    return data


def stack_of(error):
    """The traceback without the frames of this file and of the import system. An explicit cause is told apart."""
    traceback = library("traceback")
    chain = error.__cause__ is None
    told = traceback.TracebackException(type(error), error, error.__traceback__)
    parts = [told]
    for part in parts:
        part.stack[:] = [frame for frame in part.stack if not is_own(frame.filename)]
        parts += [other for other in (part.__cause__, part.__context__) if other is not None and chain]
        parts += getattr(part, "exceptions", None) or []
    lines = list(told.format(chain=chain))
    if not told.stack and lines[:1] == ["Traceback (most recent call last):\n"]:
        del lines[0]
    return "".join(lines).rstrip("\n")


def is_own(filename):
    return filename == is_own.__code__.co_filename or filename.startswith("<frozen importlib")


def portable(value, walk):
    """The part of a value that JSON can carry, within bounds: errors drag requests, sockets, whole responses along."""
    walk.values += 1
    if value is None or value is True or value is False:
        return value
    if isinstance(value, BaseException):
        return describe(value, walk)
    if type(value) is dict:
        return within(value, walk, lambda: portable_members(value, walk))
    if type(value) is list or type(value) is tuple:
        return within(value, walk, lambda: [without(portable(item, walk)) for item in value[:MOST_ITEMS]])
    if callable(value):
        return ABSENT
    if isinstance(value, float) and (value != value or value in (INFINITY, -INFINITY)):
        return repr(value)
    if isinstance(value, (dict, list, tuple)) or hasattr(type(value), "__dataclass_fields__"):
        return "[%s]" % type_name(value)
    shown = attempt(lambda: parse(dumps(value)) if not isinstance(value, str) else str.__str__(value), ABSENT)
    if isinstance(shown, str):
        return shortened(shown)
    return shown if isinstance(shown, (int, float)) else "[%s]" % type_name(value)


def without(value):
    return None if value is ABSENT else value


def portable_members(value, walk):
    data = {}
    for key in value:
        if walk.values > MOST_VALUES:
            break
        name = attempt(lambda: key if type(key) is str else key_text(key, [False, set()]), ABSENT)
        item = attempt(lambda: portable(value[key], walk), "[unreadable]")
        if item is not ABSENT and name is not ABSENT:
            data[name] = item
    return data


def within(value, walk, visit):
    if any(value is outer for outer in walk.path):
        return "[circular]"
    if len(walk.path) >= DEEPEST or walk.values > MOST_VALUES:
        return "[not shown]"
    walk.path.append(value)
    seen = attempt(visit, "[unreadable]")
    walk.path.pop()
    return seen


def shortened(text):
    text = str.__str__(text)
    if len(text) <= LONGEST_TEXT:
        return text
    return "%s… (%d characters more)" % (text[:LONGEST_TEXT], len(text) - LONGEST_TEXT)


def attempt(action, otherwise=None):
    try:
        return action()
    except BaseException:
        return otherwise


def library(name):
    """A module of the standard library, even if the tool's folder has a file of that name."""
    if name not in modules:
        whole = sys.path
        sys.path = [folder for folder in whole if folder != tool_folder]
        try:
            __import__(name)
        finally:
            sys.path = whole
    return modules[name]


# ---------------------------------------------------------------------------------------------------------- the tool

Function = type(attempt)
Generator = type((lambda: (yield))())
Module = type(sys)
DECLARED = ("DESCRIPTION", "INPUT_SCHEMA", "OUTPUT_SCHEMA")
tool_folder = None


class LoadError(Exception):
    def __init__(self, problem):
        super().__init__("%s is not usable as a tool: %s" % (sys.argv[0], problem))


def load(file):
    """
    The tool as a module of its own name, so that what it pickles for another process can be found there again. A name
    that is taken already, by the standard library say, would change what the others import: that one gets a prefix.
    """
    global tool_folder
    tool_folder = paths.dirname(paths.realpath(file))
    sys.path.insert(0, tool_folder)
    sys.argv[:] = [file]
    name = paths.splitext(paths.basename(file))[0].replace(".", "_")
    if name in modules or name in getattr(sys, "stdlib_module_names", ()) or name == "__mp_main__":
        name = "tool_" + name
    location = paths.abspath(file)
    loader = _frozen_importlib_external.SourceFileLoader(name, location)
    spec = _frozen_importlib_external.spec_from_file_location(name, location, loader=loader)
    module = _frozen_importlib.module_from_spec(spec)
    modules[name] = module
    loader.exec_module(module)
    return module


def pick(module, name):
    exported = vars(module)
    wanted = exported.get("run" if name is None else name)
    if callable(wanted):
        return wanted
    exported = {key: exported[key] for key in exported if is_export(key, exported[key], module.__name__)}
    functions = {id(value): value for value in exported.values() if isinstance(value, Function)}
    if name is None and len(functions) == 1:
        return next(iter(functions.values()))

    problem = "it has to define one function, as run or by the name the tool declares"
    if name is not None:
        problem = "it has no export %s" % name
    if wanted is not None and name is not None:
        problem = "its export %s is not a function" % name
    exports = ", ".join("%s (%s)" % (key, kind_of(value)) for key, value in exported.items())
    raise LoadError("%s; it exports %s" % (problem, exports or "nothing"))


def is_export(key, value, home):
    if key.startswith("_") or key in DECLARED or isinstance(value, Module):
        return False
    return value.__module__ == home if isinstance(value, (Function, type)) else True


def kind_of(value):
    return "class" if isinstance(value, type) else type(value).__name__


def signature(run):
    """How many of (input, ctx) it takes by position, and which of them by name only."""
    inner = run
    while True:
        bound = 0
        if hasattr(inner, "__func__"):
            inner, bound = inner.__func__, 1
        code = getattr(inner, "__code__", None)
        wrapped = getattr(inner, "__wrapped__", None)
        if wrapped is None or (code is not None and not code.co_flags & 0x04):
            break
        inner = wrapped  # behind *args of a decorator
    if not isinstance(inner, Function):
        return attempt(lambda: inspected(inner), (2, ()))
    count = code.co_argcount
    names = code.co_varnames[bound:count]
    optional = len(inner.__defaults__ or ())
    by_name = code.co_varnames[count : count + code.co_kwonlyargcount]
    return taken(names, len(names) - optional, code.co_flags & 0x04, by_name)


def inspected(run):
    found = library("inspect").signature(run).parameters.values()
    positional = [one for one in found if one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)]
    required = sum(one.default is one.empty for one in positional)
    by_name = [one.name for one in found if one.kind is one.KEYWORD_ONLY]
    return taken([one.name for one in positional], required, any(one.kind is one.VAR_POSITIONAL for one in found), by_name)


def taken(names, required, any_number, by_name):
    """A second parameter with a default is somebody's option, unless it is named for what it gets."""
    count = 2 if any_number else min(len(names), 2)
    if count == 2 and len(names) >= 2 and required < 2 and names[1] not in ("ctx", "context"):
        count = 1
    return count, [name for name in by_name if name in ("input", "ctx")]


def declared(run, module):
    """The schemas the tool declares: its file as constants, or the function itself as attributes, which count more."""
    schemas = {}
    for constant in DECLARED[1:]:
        schema = constant_of(run, module, constant)
        if schema is None:
            continue
        dump = getattr(schema, "model_json_schema", None)
        if callable(dump):
            schema = dump()
        if not isinstance(schema, (dict, bool)):
            raise LoadError("its %s is neither an object nor a boolean" % constant)
        schemas[constant.lower()] = schema
    return schemas


def constant_of(run, module, name):
    value = getattr(run, name, None)
    return vars(module).get(name) if value is None else value


def description_of(run, module):
    value = constant_of(run, module, "DESCRIPTION")
    if value is None and hasattr(run, "__code__") and isinstance(run.__doc__, str):
        value = library("inspect").cleandoc(run.__doc__)
    return {"description": value} if isinstance(value, str) and value else {}


def settled(value):
    """Waits for what is awaitable, and runs a generator to its end: what it yields is progress."""
    if type(value) is Generator:
        while True:
            try:
                item = next(value)
            except StopIteration as end:
                return end.value
            attempt(lambda: progress(item))
    if hasattr(type(value), "__await__") or is_async_generator(value):
        return run_loop(value)
    return value


def is_async_generator(value):
    return type(value).__name__ == "async_generator" and hasattr(type(value), "__anext__")


def run_loop(value):
    outcome = []

    async def drive():
        try:
            if is_async_generator(value):
                async for item in value:
                    attempt(lambda: progress(item))
                outcome[:] = None, None
            else:
                outcome[:] = await value, None
        except BaseException as error:
            outcome[:] = None, error

    asyncio = library("asyncio")
    loop = asyncio.new_event_loop()  # asyncio.run would wait for the threads that are left
    asyncio.set_event_loop(loop)
    loop.run_until_complete(drive())
    value, error = outcome
    if error is not None:
        raise error
    return settled(value)


# ------------------------------------------------------------------------------------------------------- the context


class Signal:
    """Like threading.Event, but one whose set() a signal handler may call in the midst of wait()."""

    def __init__(self):
        self._set = False
        self._gate = _thread.allocate_lock()
        self._gate.acquire()

    def is_set(self):
        return self._set

    def wait(self, timeout=None):
        if not self._set and self._gate.acquire(True, -1 if timeout is None else max(0, timeout)):
            self._gate.release()  # for the next who waits
        return self._set

    def _fire(self):
        if not self._set:
            self._set = True
            self._gate.release()


class Context:
    """What a tool learns about its call, and how it tells what it is doing."""

    def __init__(self, id, config):
        self.id = id
        self.config = config
        self.workdir = attempt(getcwd)
        self.signal = Signal()

    @property
    def cancelled(self):
        return self.signal.is_set()

    def progress(self, value=None, message=None):
        """progress(0.4, "half done"), progress("half done"), progress({"fraction": …, "message": …}): else it is data."""
        attempt(lambda: progress(value, message))

    def log(self, *values):
        """log("warn", "message", data), log("message", data)."""
        attempt(lambda: log(*values))


def progress(value=None, message=None):
    report = {"type": "progress", "message": message, "fraction": None, "data": None}
    if is_number(value):
        report["fraction"] = value
    elif isinstance(value, str):
        report["message"] = value
    elif isinstance(value, dict) and (is_number(value.get("fraction")) or isinstance(value.get("message"), str)):
        rest = {key: value[key] for key in value if key not in ("fraction", "message", "data")}
        data = value.get("data")
        report.update(fraction=value.get("fraction"), message=value.get("message"))
        report["data"] = (rest or None) if data is None else data
    else:
        report["data"] = value
    fraction = report["fraction"]
    if not is_number(fraction) or not -INFINITY < fraction < INFINITY:
        report["fraction"] = None
    if report["message"] is not None:
        report["message"] = text_of(report["message"])
    tell({key: value for key, value in report.items() if value is not None})


def is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def log(*values):
    values = list(values)
    level = values.pop(0) if len(values) > 1 and values[0] in ("debug", "info", "warn", "error") else "info"
    message = values[0] if values else None
    data = values[1] if len(values) > 1 else message if isinstance(message, BaseException) else None
    report = {"type": "log", "level": level, "message": text_of(message)}
    tell(report if data is None else {**report, "data": data})


def text_of(value):
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, BaseException):
        return describe(value)["message"]
    shown = portable(value, Walk())
    return shown if isinstance(shown, str) else dumps(without(shown))


def tell(message):
    """What JSON cannot carry is left out."""
    if stage != "run":
        return
    line = attempt(lambda: dumps(message))
    if line is None:
        line = dumps(portable(message, Walk()))
    with sending:
        if stage == "run":
            send(line)


# ---------------------------------------------------------------------------------------------------------- the call

# "load", "run", "ended" (the outcome is decided).
stage = "load"
ending = _thread.allocate_lock()
signal = None
earlier_handler = None


def cancel(number, frame):
    signal._fire()
    if callable(earlier_handler):
        earlier_handler(number, frame)


def thread_failed(failure):
    """What nobody caught on a thread ends the call; once that has ended, it is ignored."""
    error = failure.exc_value
    if error is None or issubclass(type(error), SystemExit):
        return
    if stage != "ended" and getpid() == process:
        fail(stage, error)
    library("traceback").print_exception(failure.exc_type, error, failure.exc_traceback)


def watch_threads():
    """threading takes its hook from _thread when it is loaded, and that may be much later or never."""
    if "threading" in modules:
        modules["threading"].excepthook = thread_failed
    else:
        _thread._excepthook = thread_failed


def forked():
    """A child that the tool forks has no part in the call, and ends on SIGTERM as others do."""
    global stage, sending, ending, busy
    stage, sending, ending, busy = "ended", _thread.RLock(), _thread.allocate_lock(), False
    unsent.clear()
    for fd in (reply_fd, call_fd):
        if attempt(lambda: identity(fd)) in (reply_identity, call_identity):
            attempt(lambda: close(fd))
    if attempt(lambda: _signal.getsignal(_signal.SIGTERM)) is cancel:
        attempt(lambda: _signal.signal(_signal.SIGTERM, earlier_handler or _signal.SIG_DFL))


def fail(phase, error):
    """Says what was raised. One that asks for the end of the process gets that instead."""
    if issubclass(type(error), SystemExit):  # isinstance would ask a hostile error for its __class__
        leave(error.code)
    if getpid() != process:
        attempt(lambda: library("traceback").print_exception(type(error), error, error.__traceback__))
    line = attempt(lambda: dumps({"type": "error", "phase": phase, **describe(error)}))
    end(line or '{"type":"error","phase":"%s","name":"Exception","message":""}' % phase, 1)


def end(line, code):
    global stage
    ending.acquire()  # for good: who comes second waits here until the process is gone
    drain()
    if getpid() == process:
        with sending:
            stage = "ended"
            try:
                send(line)
            except BaseException:
                code = 1  # the tool closed the channel: without a last line, the exit code has to say it
    _exit(code)


def leave(code):
    ending.acquire()
    if code is None or isinstance(code, int):
        code = int(code or 0) & 0xFF
    else:
        attempt(lambda: sys.stderr.write("%s\n" % (code,)))
        code = 1
    drain()
    _exit(code)


def main():
    global stage, signal, earlier_handler
    file, name = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else None
    replace_stream("stdout", 1)
    replace_stream("stderr", 2)
    open_channel()
    register_at_fork(after_in_child=forked)
    watch_threads()
    send(dumps({"type": "hello", "protocol": 1, "runtime": "python", "version": "%d.%d.%d" % sys.version_info[:3]}))
    try:
        module = load(file)
        run = pick(module, name)
        count, by_name = signature(run)
        schemas = declared(run, module)
        ready = dumps({"type": "ready", **schemas})
    except BaseException as error:
        fail("load", error)
    send(ready)

    try:
        call = parse(read_line())
        if call["type"] == "describe":
            end(dumps({"type": "result", "value": {**description_of(run, module), **schemas}}), 0)
        context = Context(call["id"], call["config"])
        signal = context.signal
        earlier_handler = _signal.signal(_signal.SIGTERM, cancel)
    except BaseException as error:
        fail("load", error)

    stage = "run"
    values = {"input": call["input"], "ctx": context}
    try:
        value = settled(run(*list(values.values())[:count], **{key: values[key] for key in by_name}))
    except BaseException as error:
        fail("run", error)
    try:
        gc.disable()  # for a large result, it would take most of the time
        sys.setrecursionlimit(max(sys.getrecursionlimit(), DEEPEST_VALUE))
        line = '{"type":"result","value":%s}' % dumps(value)
    except BaseException as error:
        fail("result", error)
    end(line, 0)


if __name__ == "__main__":
    main()
