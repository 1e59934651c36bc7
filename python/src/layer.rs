//! `Layer`: the class that all layers of the package use.

use std::sync::{Arc, Weak};
use std::time::Duration;

use channel_layer::{ChannelLayer, Config, Error, Message, Statistics};
use parking_lot::Mutex;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::bridge::call::Call;
use crate::core::{Core, Kind};
use crate::inbox::notices::Notices;
use crate::outcome::Outcome;
use crate::runtime::{PerProcess, process, runtime};
use crate::{errors, values};

/// The layers of this process. Locked only by threads that hold the GIL.
static CORES: Mutex<Vec<(u32, Weak<Core>)>> = Mutex::new(Vec::new());

/// A channel layer. Every method but `close_all` and `settings` returns an awaitable.
#[pyclass(frozen, module = "channel_layer._native")]
pub(crate) struct Layer {
    kind: Kind,
    config: Config,
    notices: Notices,
    /// Locked only by threads that hold the GIL, so it is free in a child process.
    core: Mutex<Option<PerProcess<Arc<Core>>>>,
}

impl Layer {
    /// Returns the layer of this process. It is made at the first call, after a fork, and after a close.
    fn core(&self, py: Python<'_>) -> PyResult<Arc<Core>> {
        let mut slot = self.core.lock();
        if let Some(core) = slot.as_ref().and_then(PerProcess::get) {
            return Ok(core.clone());
        }
        let core = Core::new(self.kind, self.config.clone(), self.notices.clone(), runtime()?);
        let core = core.map_err(|error| errors::raised(py, &error))?;
        let process = process();
        let mut cores = CORES.lock();
        cores.retain(|(of, core)| *of == process && core.strong_count() > 0);
        cores.push((process, Arc::downgrade(&core)));
        *slot = Some(PerProcess::new(core.clone()));
        Ok(core)
    }

    /// Starts a call of the layer, which is connected first.
    fn call<F>(&self, py: Python<'_>, call: impl FnOnce(Arc<dyn ChannelLayer>) -> F + Send + 'static) -> PyResult<Call>
    where
        F: Future<Output = Result<Outcome, Error>> + Send + 'static,
    {
        let core = self.core(py)?;
        Call::start(py, async move {
            let layer = core.connected().await?.layer.clone();
            call(layer).await
        })
    }
}

#[pymethods]
impl Layer {
    /// Creates a layer of `kind` (`native`, `channels_redis`, `pubsub` or `memory`) from the options of the crate as
    /// JSON. Connects at the first call. Consumers get messages of the types `on_disconnect` and `on_reconnect` when
    /// the connection to a server breaks and when it is back.
    #[new]
    #[pyo3(signature = (kind, options, on_disconnect = None, on_reconnect = None))]
    fn new(kind: &str, options: &str, on_disconnect: Option<String>, on_reconnect: Option<String>) -> PyResult<Self> {
        let kind =
            Kind::named(kind).ok_or_else(|| PyValueError::new_err(format!("unknown kind of layer: {kind:?}")))?;
        let config = kind.config(options).map_err(|error| PyValueError::new_err(error.to_string()))?;
        Ok(Self { kind, config, notices: Notices { on_disconnect, on_reconnect }, core: Mutex::new(None) })
    }

    /// Returns the options with their values as text, without secrets.
    fn settings(&self) -> Vec<(String, String)> {
        self.config.settings().into_iter().map(|setting| (setting.option.to_owned(), setting.value)).collect()
    }

    fn send(&self, py: Python<'_>, channel: String, message: &Bound<'_, PyDict>) -> PyResult<Call> {
        let message = values::to_message(message)?;
        self.call(py, |layer| async move {
            layer.send(&channel, message).await?;
            Ok(Outcome::None)
        })
    }

    /// Sends `(channel, message)` pairs. Returns a list with `None` or an exception for each.
    fn send_many(&self, py: Python<'_>, messages: &Bound<'_, PyAny>) -> PyResult<Call> {
        let messages = to_messages(messages)?;
        self.call(py, |layer| async move { Ok(Outcome::Results(layer.send_many(&borrowed(&messages)).await)) })
    }

    fn group_send(&self, py: Python<'_>, group: String, message: &Bound<'_, PyDict>) -> PyResult<Call> {
        let message = values::to_message(message)?;
        self.call(py, |layer| async move {
            layer.group_send(&group, message).await?;
            Ok(Outcome::None)
        })
    }

    /// Sends `(group, message)` pairs. Returns a list with `None` or an exception for each.
    fn group_send_many(&self, py: Python<'_>, messages: &Bound<'_, PyAny>) -> PyResult<Call> {
        let messages = to_messages(messages)?;
        self.call(py, |layer| async move { Ok(Outcome::Results(layer.group_send_many(&borrowed(&messages)).await)) })
    }

    /// Waits for a message of the channel with this full name.
    fn receive(&self, py: Python<'_>, channel: &str) -> PyResult<Call> {
        let core = self.core(py)?;
        Call::begin(py, |py, call, calls, _| {
            // A receiver may write to a socket and decode messages.
            if channel.contains('!') {
                core.inbox.receive(&core, channel, call, calls)
            } else {
                py.detach(|| core.inbox.receive(&core, channel, call, calls))
            }
        })
    }

    fn new_channel(&self, py: Python<'_>, prefix: String) -> PyResult<Call> {
        let core = self.core(py)?;
        Call::start(py, async move { Ok(Outcome::Name(core.new_channel(&prefix).await?)) })
    }

    fn group_add(&self, py: Python<'_>, group: String, channel: String) -> PyResult<Call> {
        let core = self.core(py)?;
        Call::start(py, async move {
            let connected = core.connected().await?;
            connected.check_member(&channel)?;
            connected.layer.group_add(&group, &channel).await?;
            Ok(Outcome::None)
        })
    }

    fn group_discard(&self, py: Python<'_>, group: String, channel: String) -> PyResult<Call> {
        self.call(py, |layer| async move {
            layer.group_discard(&group, &channel).await?;
            Ok(Outcome::None)
        })
    }

    fn group_channels(&self, py: Python<'_>, group: String) -> PyResult<Call> {
        self.call(py, |layer| async move { Ok(Outcome::Names(layer.group_channels(&group).await?)) })
    }

    fn flush(&self, py: Python<'_>) -> PyResult<Call> {
        let core = self.core(py)?;
        Call::start(py, async move {
            core.inbox.clear();
            core.connected().await?.layer.flush().await?;
            core.inbox.clear();
            Ok(Outcome::None)
        })
    }

    /// Returns the counters of a channel, or of all channels.
    fn statistics(&self, py: Python<'_>, channel: Option<String>) -> PyResult<Call> {
        self.call(py, |layer| async move {
            let statistics = match channel {
                Some(channel) => layer.channel_statistics(&channel).await?,
                None => layer.global_statistics().await?,
            };
            Ok(Outcome::Json(json_of(statistics)))
        })
    }

    /// Returns the state of the servers.
    fn health(&self, py: Python<'_>) -> PyResult<Call> {
        self.call(py, |layer| async move {
            let health = serde_json::to_string(&layer.health().await);
            Ok(Outcome::Json(health.expect("a health has no maps with keys other than text")))
        })
    }

    /// Returns unread messages to their channels, and closes the connections. The next call connects again.
    fn close(&self, py: Python<'_>) -> PyResult<Call> {
        let core = self.core.lock().take().and_then(PerProcess::into_inner);
        Call::start(py, async move {
            let Some(core) = core else {
                return Ok(Outcome::None);
            };
            // A task goes on if the caller is cancelled.
            let runtime = core.runtime;
            runtime.spawn(core.close()).await.unwrap_or(Err(Error::Panicked))?;
            Ok(Outcome::None)
        })
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        // Closed in the background, which also returns the messages of the inbox. `close_all` waits for it.
        if let Some(core) = self.core.lock().take().and_then(PerProcess::into_inner) {
            core.runtime.spawn(core.close());
        }
    }
}

/// Closes all layers of this process, and waits until they are closed, at most `timeout` seconds.
#[pyfunction]
pub(crate) fn close_all(py: Python<'_>, timeout: f64) -> PyResult<()> {
    let process = process();
    let cores: Vec<_> =
        CORES.lock().iter().filter(|(of, _)| *of == process).filter_map(|(_, core)| core.upgrade()).collect();
    if cores.is_empty() {
        return Ok(());
    }
    let runtime = runtime()?;
    py.detach(|| {
        let closing = futures_util::future::join_all(cores.into_iter().map(Core::close));
        // Errors are in the log of the crate. The process ends in any case.
        let _ = runtime.block_on(async { tokio::time::timeout(Duration::from_secs_f64(timeout), closing).await });
    });
    Ok(())
}

/// Returns the report of `channel-layer doctor` for these options, and whether messages arrive. Waits for the servers.
#[pyfunction]
pub(crate) fn doctor(py: Python<'_>, kind: &str, options: &str) -> PyResult<(String, bool)> {
    let Layer { kind, config, .. } = &Layer::new(kind, options, None, None)?;
    let deployment = kind.deployment(config.clone());
    let runtime = runtime()?;
    let report = py.detach(|| runtime.block_on(deployment.report()));
    let is_healthy = report.verdict.is_ok();
    let verdict = report.verdict.unwrap_or_else(|failure| failure);
    Ok((report.lines.into_iter().chain([verdict]).collect::<Vec<_>>().join("\n"), is_healthy))
}

fn to_messages(pairs: &Bound<'_, PyAny>) -> PyResult<Vec<(String, Message)>> {
    let pair = |pair: PyResult<Bound<'_, PyAny>>| {
        let (name, message): (String, Bound<'_, PyDict>) = pair?.extract()?;
        Ok((name, values::to_message(&message)?))
    };
    pairs.try_iter()?.map(pair).collect()
}

fn borrowed(messages: &[(String, Message)]) -> Vec<(&str, Message)> {
    messages.iter().map(|(name, message)| (&**name, message.clone())).collect()
}

fn json_of(statistics: Statistics) -> String {
    serde_json::json!({
        "messages_count": statistics.messages_count,
        "channel_full_count": statistics.channel_full_count,
        "messages_pending": statistics.messages_pending,
        "messages_max_age": statistics.messages_max_age.as_secs_f64(),
    })
    .to_string()
}
