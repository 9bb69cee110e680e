//! Who may ask for the end of an execution, and how its owner hears of it.

use std::{future::Future, sync::Arc};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    error::{CancelSource, ErrorKind},
    state::Stage,
};

/// A request to end an execution: who asks, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Cancellation {
    /// Who.
    pub by: CancelSource,
    /// Why, for the report.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

impl Cancellation {
    pub(crate) fn by(by: CancelSource) -> Self {
        Self { by, reason: None }
    }
}

impl From<CancelSource> for Cancellation {
    fn from(by: CancelSource) -> Self {
        Self::by(by)
    }
}

impl From<&str> for Cancellation {
    fn from(reason: &str) -> Self {
        Self { by: CancelSource::Caller, reason: Some(reason.to_owned()) }
    }
}

impl From<Cancellation> for ErrorKind {
    fn from(Cancellation { by, reason }: Cancellation) -> Self {
        ErrorKind::Canceled { by, reason }
    }
}

#[derive(Debug, Clone, Default)]
struct Asked {
    first: Option<Cancellation>,
    insisted: bool,
}

/// The asking side.
#[derive(Debug)]
pub(crate) struct CancelHandle {
    asked: watch::Sender<Asked>,
    stage: Arc<Stage>,
}

impl CancelHandle {
    /// The first request is what the report will name; each later one insists: no grace, no linger.
    pub(crate) fn cancel(&self, cancellation: Cancellation) {
        self.asked.send_modify(|asked| match asked.first {
            None => asked.first = Some(cancellation),
            Some(_) => asked.insisted = true,
        });
        // After it: who sees it in the state finds the request.
        self.stage.ask();
    }

    /// Asks once; never insists.
    pub(crate) fn ask(&self, cancellation: Cancellation) {
        self.asked.send_if_modified(|asked| {
            let unasked = asked.first.is_none();
            asked.first.get_or_insert(cancellation);
            unasked
        });
        self.stage.ask();
    }

    /// The first request, if there was one.
    pub(crate) fn request(&self) -> Option<Cancellation> {
        self.asked.borrow().first.clone()
    }

    /// How far the execution has come.
    pub(crate) fn stage(&self) -> &Arc<Stage> {
        &self.stage
    }
}

/// The engine's own wish to end everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct Closing {
    /// No new calls, and cancel what runs.
    pub(crate) asked: CancellationToken,
    /// No more grace.
    pub(crate) insisted: CancellationToken,
}

/// The hearing side: all those who may ask, as one.
#[derive(Debug)]
pub(crate) struct Cancels {
    handle: watch::Receiver<Asked>,
    stage: Arc<Stage>,
    tokens: Vec<CancellationToken>,
    closing: Closing,
}

impl Cancels {
    pub(crate) fn new(tokens: Vec<CancellationToken>, closing: Closing) -> (CancelHandle, Self) {
        let (asked, handle) = watch::channel(Asked::default());
        let stage = Arc::new(Stage::new());
        (CancelHandle { asked, stage: Arc::clone(&stage) }, Self { handle, stage, tokens, closing })
    }

    /// How far the execution has come, for the task that runs it.
    pub(crate) fn stage(&self) -> &Stage {
        &self.stage
    }

    /// Hears of this token, too.
    pub(crate) fn listen_to(&mut self, token: CancellationToken) {
        self.tokens.push(token);
    }

    /// The request that stands, if there is one.
    pub(crate) fn standing(&self) -> Option<Cancellation> {
        if let Some(first) = &self.handle.borrow().first {
            return Some(first.clone());
        }
        if self.tokens.iter().any(CancellationToken::is_cancelled) {
            return Some(Cancellation::by(CancelSource::Token));
        }
        self.closing.asked.is_cancelled().then(|| Cancellation::by(CancelSource::Shutdown))
    }

    /// Resolves when somebody asks. Cancel-safe: a request stays.
    pub(crate) async fn requested(&self) -> Cancellation {
        let mut handle = self.handle.clone();
        let asked = async {
            // The sender lives as long as the handle or its detached remains do; without one nobody can ask that way.
            if handle.wait_for(|asked| asked.first.is_some()).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! { biased;
            () = asked => {}
            () = any(&self.tokens) => {}
            () = self.closing.asked.cancelled() => {}
        }
        self.standing().unwrap_or_else(|| Cancellation::by(CancelSource::Caller))
    }

    /// Resolves when somebody asks for a second time, or the engine has waited long enough. Cancel-safe.
    pub(crate) async fn insisted(&self) {
        let mut handle = self.handle.clone();
        let insisted = async {
            if handle.wait_for(|asked| asked.insisted).await.is_err() {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! { biased;
            () = insisted => {}
            () = self.closing.insisted.cancelled() => {}
        }
    }
}

async fn any(tokens: &[CancellationToken]) {
    let mut waits: Vec<_> = tokens.iter().map(|token| Box::pin(token.cancelled())).collect();
    std::future::poll_fn(|cx| {
        if waits.iter_mut().any(|wait| wait.as_mut().poll(cx).is_ready()) {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}
