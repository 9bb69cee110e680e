//! What is said through the crate `tracing` on the thread of a test: spans and events, as data.

use std::{
    collections::BTreeMap,
    fmt::Debug,
    sync::{Arc, Mutex, PoisonError},
};

use tracing::{
    Event, Level, Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
    subscriber::DefaultGuard,
};
use tracing_subscriber::{
    Layer, Registry,
    layer::{Context, SubscriberExt as _},
    registry::LookupSpan,
};

/// Collects until it is dropped. Tasks are heard when they run on this thread: on a runtime of one thread.
#[derive(Debug)]
pub struct Capture {
    said: Arc<Mutex<Said>>,
    _default: DefaultGuard,
}

/// Everything that was said so far.
#[derive(Debug, Clone, Default)]
pub struct Said {
    /// In the order of their beginning.
    pub spans: Vec<Span>,
    /// In their order.
    pub events: Vec<Saying>,
}

/// A span.
#[derive(Debug, Clone)]
pub struct Span {
    id: u64,
    /// Its name.
    pub name: String,
    /// The name of the one it is in.
    pub parent: Option<String>,
    /// What was recorded, `Debug` for what is no text, number or truth value.
    pub fields: BTreeMap<String, String>,
    /// It has ended.
    pub closed: bool,
    /// The messages of the events in it.
    pub events: Vec<String>,
}

/// An event.
#[derive(Debug, Clone)]
pub struct Saying {
    /// How loud.
    pub level: Level,
    /// Its words.
    pub message: String,
    /// What else it says.
    pub fields: BTreeMap<String, String>,
}

impl Capture {
    /// Begins, on this thread.
    pub fn begin() -> Self {
        let said = Arc::<Mutex<Said>>::default();
        let subscriber = Registry::default().with(Collector(Arc::clone(&said)));
        Self { said, _default: tracing::subscriber::set_default(subscriber) }
    }

    /// What was said so far.
    pub fn said(&self) -> Said {
        self.said.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many events there were with these words among theirs.
    pub fn count(&self, words: &str) -> usize {
        self.said().events.iter().filter(|event| event.message.contains(words)).count()
    }
}

struct Collector(Arc<Mutex<Said>>);

impl Collector {
    fn with(&self, change: impl FnOnce(&mut Said)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn in_span(&self, id: &Id, change: impl FnOnce(&mut Span)) {
        // Ids are used again when a span has closed.
        self.with(|said| {
            let span = said.spans.iter_mut().rev().find(|span| span.id == id.into_u64());
            change(span.expect("it was begun"));
        });
    }
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Collector {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let parent = context.span(id).and_then(|span| Some(span.parent()?.name().to_owned()));
        let mut fields = Fields::default();
        attributes.record(&mut fields);
        self.with(|said| {
            said.spans.push(Span {
                id: id.into_u64(),
                name: attributes.metadata().name().to_owned(),
                parent,
                fields: fields.0,
                closed: false,
                events: Vec::new(),
            });
        });
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, _: Context<'_, S>) {
        let mut fields = Fields::default();
        values.record(&mut fields);
        self.in_span(id, |span| span.fields.extend(fields.0));
    }

    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        let mut fields = Fields::default();
        event.record(&mut fields);
        let message = fields.0.remove("message").unwrap_or_default();
        if let Some(span) = context.event_span(event) {
            self.in_span(&span.id(), |span| span.events.push(message.clone()));
        }
        let level = *event.metadata().level();
        self.with(|said| said.events.push(Saying { level, message, fields: fields.0 }));
    }

    fn on_close(&self, id: Id, _: Context<'_, S>) {
        self.in_span(&id, |span| span.closed = true);
    }
}

#[derive(Default)]
struct Fields(BTreeMap<String, String>);

impl Visit for Fields {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.0.insert(field.name().to_owned(), value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.0.insert(field.name().to_owned(), format!("{value:?}"));
    }
}
