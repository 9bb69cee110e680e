//! The channel to a worker: JSON lines over two FIFOs in a private folder of the call.
//!
//! FIFOs rather than inherited descriptors, because what a runtime opens by path is close-on-exec there: what the tool
//! starts does not inherit the channel, and closing descriptors blindly does not redirect it.

use std::{
    fs,
    future::Future,
    os::{fd::OwnedFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use nix::{
    errno::Errno,
    fcntl::OFlag,
    sys::stat::Mode,
    unistd::{mkdtemp, mkfifo},
};
use rustix::pipe::fcntl_getpipe_size;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::net::unix::pipe;
use tool_sandbox::{LaunchError, LaunchStep, own_prefix};

use crate::{
    error::{ProtocolFault, ToolError, ToolPhase},
    events::{LogMessage, Progress},
    lane::{Job, Lane},
    masking::Masking,
    plan::Declared,
};

/// The version of the protocol that is spoken here.
pub(crate) const VERSION: u32 = 1;

/// The variable that tells a worker where its channel is.
pub(crate) const VARIABLE: &str = "RUN_TOOL_CHANNEL";

const FOLDER_HINT: &str = "the engine's temporary folder must exist, be writable and have room";

/// The private folder with the FIFOs `call` and `reply`; removed when dropped.
#[derive(Debug)]
pub(crate) struct ChannelFolder(PathBuf);

impl ChannelFolder {
    fn make(parent: &Path) -> Result<Self, LaunchError> {
        // mkdtemp(3) makes it accessible to its owner alone. No `TempDir`: its clean-up needs a free descriptor.
        mkdtemp(&parent.join(format!("{}XXXXXX", own_prefix()))).map(Self).map_err(|errno| {
            LaunchError::new(LaunchStep::Channel, parent.display().to_string(), errno).hint(FOLDER_HINT)
        })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for ChannelFolder {
    fn drop(&mut self) {
        for name in ["call", "reply"] {
            // It may never have been made.
            let _ = fs::remove_file(self.0.join(name));
        }
        if let Err(error) = fs::remove_dir(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "a channel's folder could not be removed; remove it by hand");
        }
    }
}

/// The engine's ends of a new channel.
#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) folder: ChannelFolder,
    pub(crate) call: OwnedFd,
    pub(crate) reply: OwnedFd,
}

impl Channel {
    /// Makes one below `parent`. Blocks for as long as the file system takes.
    pub(crate) fn make(parent: &Path) -> Result<Self, LaunchError> {
        let folder = ChannelFolder::make(parent)?;
        let open = |name: &str, write: bool| {
            let path = folder.path().join(name);
            let fail = |error: std::io::Error| {
                let hint = match error.raw_os_error().map(Errno::from_raw) {
                    Some(Errno::EMFILE | Errno::ENFILE) => {
                        "raise the limit of open files (`ulimit -n`), or run fewer calls at once"
                    }
                    _ => FOLDER_HINT,
                };
                LaunchError::new(LaunchStep::Channel, path.display().to_string(), error).hint(hint)
            };
            mkfifo(&path, Mode::S_IRUSR | Mode::S_IWUSR).map_err(|errno| fail(errno.into()))?;
            // Non-blocking, so that it does not wait for the worker; for reading and writing where it is written to,
            // because opening a FIFO for writing alone fails as long as nobody reads (fifo(7)).
            let file = fs::OpenOptions::new()
                .read(true)
                .write(write)
                .custom_flags(OFlag::O_NONBLOCK.bits())
                .open(&path);
            file.map(OwnedFd::from).map_err(fail)
        };
        let reply = open("reply", false)?;
        let call = open("call", true)?;
        Ok(Self { folder, call, reply })
    }
}

/// The one line that the worker is sent.
#[derive(Debug, Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Request<'a> {
    Call { id: &'a str, tool: &'a str, input: &'a Value, config: &'a Value },
    Describe,
}

/// What a worker says.
#[derive(Debug, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub(crate) enum Message {
    Hello { protocol: u32 },
    Ready(Declared),
    Progress(Progress),
    Log(LogMessage),
    Result { value: Value },
    Error(ToolError),
}

/// What reading the channel came to.
#[derive(Debug)]
pub(crate) enum Received {
    Message(Message),
    /// A line that is no message.
    Garbage,
    Fault(ProtocolFault),
    /// No writer is left, and everything was read.
    End,
}

/// The reading side of a channel.
#[derive(Debug)]
pub(crate) struct Reply {
    pipe: pipe::Receiver,
    /// What was read and is not a whole line yet, or not yet looked at.
    unread: BytesMut,
    /// How much of it is known to contain no line end.
    searched: usize,
    max_line: u64,
    /// A long line is parsed off the runtime's own threads.
    parsing: Option<Job<Result<Message, String>>>,
    lane: Lane,
    masking: Masking,
    /// The beginning of the first line that was no message.
    pub(crate) first_garbage: String,
    at_end: bool,
}

/// Above this many bytes, parsing a line takes longer (about 0.2 ms) than handing it to another thread.
const LONG_LINE: usize = 64 << 10;

impl Reply {
    pub(crate) fn new(pipe: pipe::Receiver, max_line: u64, lane: Lane, masking: Masking) -> Self {
        Self {
            pipe,
            unread: BytesMut::new(),
            searched: 0,
            max_line,
            parsing: None,
            lane,
            masking,
            first_garbage: String::new(),
            at_end: false,
        }
    }

    /// The next thing received. Cancel-safe: what was read stays.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Received> {
        loop {
            if let Some(received) = ready!(self.poll_buffered(cx)) {
                return Poll::Ready(received);
            }
            if self.at_end {
                return Poll::Ready(Received::End);
            }
            match ready!(self.pipe.poll_read_ready(cx)) {
                Ok(()) => {
                    self.unread.reserve(LONG_LINE);
                    match self.pipe.try_read_buf(&mut self.unread) {
                        Ok(0) => self.at_end = true,
                        Ok(_) => {}
                        Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                        Err(error) => self.broken(&error),
                    }
                }
                Err(error) => self.broken(&error),
            }
        }
    }

    /// Reads everything that was written before now: for when the worker is dead, or is about to be declared so. A worker
    /// that writes on and on is not followed: more than the pipe holds cannot have been written before.
    pub(crate) fn read_rest(&mut self) {
        let mut left = fcntl_getpipe_size(&self.pipe).unwrap_or(LONG_LINE);
        let mut chunk = [0; 16 << 10];
        while !self.at_end && left > 0 {
            let most = left.min(chunk.len());
            match rustix::io::read(&self.pipe, &mut chunk[..most]) {
                Ok(0) => self.at_end = true,
                Ok(read) => {
                    self.unread.extend_from_slice(&chunk[..read]);
                    left -= read;
                }
                Err(rustix::io::Errno::INTR) => {}
                Err(_) => break,
            }
        }
    }

    /// What can be told from what has been read already; `None` when that is nothing.
    pub(crate) fn poll_buffered(&mut self, cx: &mut Context<'_>) -> Poll<Option<Received>> {
        loop {
            if let Some(job) = &mut self.parsing {
                let parsed = ready!(Pin::new(job).poll(cx));
                self.parsing = None;
                // Parsing does not panic; if it did, the line would be no message.
                return Poll::Ready(Some(self.received(parsed.unwrap_or_else(|_| Err(String::new())))));
            }
            let Some(line) = self.next_line() else {
                let too_long = self.unread.len() as u64 > self.max_line;
                return Poll::Ready(too_long.then_some(Received::Fault(ProtocolFault::TooLong)));
            };
            if line.len() as u64 > self.max_line {
                return Poll::Ready(Some(Received::Fault(ProtocolFault::TooLong)));
            }
            if line.len() > LONG_LINE {
                let masking = self.masking.clone();
                self.parsing = Some(self.lane.spawn(move || parse(&line, &masking)));
                continue;
            }
            return Poll::Ready(Some(self.received(parse(&line, &self.masking))));
        }
    }

    fn next_line(&mut self) -> Option<Bytes> {
        match memchr::memchr(b'\n', &self.unread[self.searched..]) {
            Some(offset) => {
                let line = self.unread.split_to(self.searched + offset + 1).freeze();
                self.searched = 0;
                Some(line.slice(..line.len() - 1))
            }
            None => {
                self.searched = self.unread.len();
                None
            }
        }
    }

    fn received(&mut self, parsed: Result<Message, String>) -> Received {
        match parsed {
            Ok(message) => Received::Message(message),
            Err(excerpt) => {
                if self.first_garbage.is_empty() {
                    self.first_garbage = excerpt;
                }
                Received::Garbage
            }
        }
    }

    fn broken(&mut self, error: &std::io::Error) {
        tracing::warn!(%error, "reading a worker's channel failed; it is taken for closed");
        self.at_end = true;
    }
}

/// # Errors
/// With the beginning of a line that is no message, and why not where it looks like one.
fn parse(line: &[u8], masking: &Masking) -> Result<Message, String> {
    const EXCERPT: usize = 200;
    let unreadable = |error: serde_json::Error| {
        if let Some(told) = beyond_reading(line, &error) {
            return Ok(Message::Error(told));
        }
        // Masked first, so that it is not cut in the middle of a secret.
        let masked = masking.line(line);
        let excerpt = String::from_utf8_lossy(&masked[..masked.len().min(EXCERPT)]);
        let mut excerpt = if line.starts_with(b"{\"type\":") {
            format!("{error}: {excerpt}")
        } else {
            excerpt.into_owned()
        };
        masking.text(&mut excerpt);
        Err(excerpt)
    };
    let mut message = serde_json::from_slice(line).or_else(unreadable)?;
    match &mut message {
        Message::Progress(progress) => masking.progress(progress),
        Message::Log(log) => masking.log(log),
        Message::Error(error) => masking.tool_error(error),
        // What a tool declares is needed as it is; it is shown in errors alone, which are masked. A value is held against
        // that first, and masked by `outcome`.
        Message::Hello { protocol: _ } | Message::Ready(_) | Message::Result { value: _ } => {}
    }
    Ok(message)
}

/// What is wrong with a value, or with the schemas of a tool, that are JSON, but not such as can be read here. Nothing comes
/// after them that could tell how it ended.
fn beyond_reading(line: &[u8], error: &serde_json::Error) -> Option<ToolError> {
    let (phase, name, what, flatter, smaller) = if line.starts_with(b"{\"type\":\"result\",") {
        (
            ToolPhase::Result,
            "OutputError",
            "it",
            "return it flatter, or parts of it as text",
            "return a smaller one, or a text",
        )
    } else if line.starts_with(b"{\"type\":\"ready\",") {
        (
            ToolPhase::Load,
            "LoadError",
            "a schema that it declares",
            "declare it flatter",
            "declare a smaller one",
        )
    } else {
        return None;
    };
    // The library has no other way to tell.
    let reason = error.to_string();
    let message = if reason.starts_with("recursion limit exceeded") {
        format!("{what} is nested more than {DEEPEST} levels deep; {flatter}")
    } else if reason.starts_with("number out of range") {
        format!("{what} has a number beyond ±1.8e308; {smaller}")
    } else {
        return None;
    };
    Some(ToolError { phase, name: name.into(), message, stack: None, data: None })
}

/// How deep a value may be nested: as deep as the library reads, less what it is wrapped in.
const DEEPEST: usize = 126;

#[cfg(test)]
mod tests {
    use std::{io::Write, os::unix::fs::PermissionsExt};

    use proptest::strategy::Strategy;

    use super::*;

    async fn receive(reply: &mut Reply) -> Received {
        std::future::poll_fn(|cx| reply.poll(cx)).await
    }

    fn reply(max_line: u64) -> (std::io::PipeWriter, Reply) {
        let (reader, writer) = std::io::pipe().unwrap();
        let lane = Lane::open("lane", 1, tokio_util::task::TaskTracker::new()).unwrap();
        (
            writer,
            Reply::new(
                pipe::Receiver::from_owned_fd(reader.into()).unwrap(),
                max_line,
                lane,
                Masking::default(),
            ),
        )
    }

    #[tokio::test]
    async fn messages_between_garbage_are_found() {
        let (mut writer, mut reply) = reply(1 << 20);
        writer
            .write_all(
                b"oops\n\n{\"type\":\"ready\"}\n{\"type\":\"nonsense\"}\n{\"type\":\"result\",\"value\":[1]}",
            )
            .unwrap();
        assert!(matches!(receive(&mut reply).await, Received::Garbage));
        assert!(matches!(receive(&mut reply).await, Received::Garbage));
        assert!(matches!(receive(&mut reply).await, Received::Message(Message::Ready(_))));
        assert!(matches!(receive(&mut reply).await, Received::Garbage));
        assert_eq!(reply.first_garbage, "oops");
        writer.write_all(b"\n").unwrap();
        drop(writer);
        assert!(
            matches!(receive(&mut reply).await, Received::Message(Message::Result { value }) if value == serde_json::json!([1]))
        );
        assert!(matches!(receive(&mut reply).await, Received::End));
        assert!(matches!(receive(&mut reply).await, Received::End));
    }

    #[test]
    fn what_cannot_be_read_for_its_depth_or_size_is_told() {
        let told = |line: &str| parse(line.as_bytes(), &Masking::default());
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let result = |value: &str| format!("{{\"type\":\"result\",\"value\":{value}}}");
        assert!(matches!(told(&result(&nested(DEEPEST))), Ok(Message::Result { .. })));
        let wrong = |line: &str| match told(line) {
            Ok(Message::Error(error)) => (error.phase, error.message),
            other => panic!("{other:?}"),
        };
        let (phase, message) = wrong(&result(&nested(DEEPEST + 1)));
        assert_eq!(phase, ToolPhase::Result);
        assert!(message.contains("more than 126 levels deep; return it flatter"), "{message}");
        let (phase, message) = wrong(&result("[1e999]"));
        assert_eq!(phase, ToolPhase::Result);
        assert!(message.contains("a number beyond"), "{message}");
        let (phase, message) = wrong(&format!("{{\"type\":\"ready\",\"input_schema\":{}}}", nested(999)));
        assert_eq!(phase, ToolPhase::Load);
        assert!(message.contains("a schema that it declares is nested"), "{message}");
        assert!(told(&result("[1")).unwrap_err().starts_with("expected"));
        assert!(told(&format!("{{\"type\":\"log\",\"data\":{}}}", nested(999))).is_err());
    }

    #[tokio::test]
    async fn a_line_that_is_too_long_is_a_fault_before_it_ends() {
        let (mut writer, mut reply) = reply(10);
        writer.write_all(&[b'x'; 12]).unwrap();
        assert!(matches!(receive(&mut reply).await, Received::Fault(ProtocolFault::TooLong)));
    }

    #[tokio::test]
    async fn a_long_line_is_parsed_elsewhere_and_arrives_whole() {
        let (mut writer, mut reply) = reply(1 << 30);
        let text = "x".repeat(3 << 20);
        let line = format!("{{\"type\":\"result\",\"value\":\"{text}\"}}\n");
        let writing = reply.lane.spawn(move || writer.write_all(line.as_bytes()));
        assert!(
            matches!(receive(&mut reply).await, Received::Message(Message::Result { value }) if value == text)
        );
        writing.await.unwrap().unwrap();
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(64))]

        /// However a stream of lines is cut into reads: each line is told, in order, as a message or as garbage; and no
        /// bytes whatever are taken for anything else.
        #[test]
        fn lines_are_told_in_order_however_they_are_cut(
            lines in proptest::collection::vec(proptest::prop_oneof![
                proptest::strategy::Just(br#"{"type":"ready"}"#.to_vec()),
                (0u32..1000).prop_map(|n| format!(r#"{{"type":"result","value":{n}}}"#).into_bytes()),
                proptest::collection::vec(proptest::prelude::any::<u8>().prop_filter("no line end", |byte| *byte != b'\n'), 0..40),
            ], 0..20),
            cuts in proptest::collection::vec(1usize..50, 1..40),
        ) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let told = runtime.block_on(async {
                let (mut writer, mut reply) = reply(1 << 20);
                let bytes: Vec<u8> = lines.iter().flat_map(|line| [&line[..], b"\n"].concat()).collect();
                let (mut rest, mut told) = (&bytes[..], Vec::new());
                for cut in cuts.iter().cycle() {
                    let (chunk, left) = rest.split_at((*cut).min(rest.len()));
                    writer.write_all(chunk).unwrap();
                    rest = left;
                    if rest.is_empty() {
                        break;
                    }
                    // Half a line is never told.
                    reply.read_rest();
                    while let Some(received) = std::future::poll_fn(|cx| reply.poll_buffered(cx)).await {
                        told.push(received);
                    }
                }
                drop(writer);
                loop {
                    match receive(&mut reply).await {
                        Received::End => break told,
                        received => told.push(received),
                    }
                }
            });
            proptest::prop_assert_eq!(told.len(), lines.len());
            for (received, line) in told.iter().zip(&lines) {
                match (received, serde_json::from_slice::<Message>(line)) {
                    (Received::Garbage, Err(_)) => {}
                    (Received::Message(Message::Ready(_)), Ok(Message::Ready(_))) => {}
                    (Received::Message(Message::Result { value }), Ok(Message::Result { value: expected })) => {
                        proptest::prop_assert_eq!(value, &expected);
                    }
                    other => proptest::prop_assert!(false, "{:?}", other),
                }
            }
        }
    }

    #[test]
    fn a_channels_folder_is_private_and_goes_with_it() {
        let parent = tempfile::tempdir().unwrap();
        let channel = Channel::make(parent.path()).unwrap();
        let path = channel.folder.path().to_owned();
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o700);
        drop(channel);
        assert!(!path.exists());
        let error = Channel::make(Path::new("/nonexistent")).unwrap_err();
        assert_eq!((error.step, error.source.raw_os_error()), (LaunchStep::Channel, Some(2)));
    }
}
