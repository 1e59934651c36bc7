//! The exceptions of Python for the errors of the crate.

use channel_layer::Error;
use pyo3::exceptions::{PyRuntimeError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::PyType;

use crate::core::FOREIGN_MEMBER;

/// The module with the exceptions of the package.
const MODULE: &str = "channel_layer.exceptions";

/// Returns the exception for `error`. `ChannelFull` is the one of channels.
pub(crate) fn raised(py: Python<'_>, error: &Error) -> PyErr {
    static FULL: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static REDIS: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static MESSAGE: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    static OTHER: PyOnceLock<Py<PyType>> = PyOnceLock::new();
    let text = error.to_string();
    let class = match error {
        Error::InvalidName(_) => return PyTypeError::new_err(text),
        Error::InvalidConfig { .. } => return PyValueError::new_err(text),
        // As in channels_redis.
        Error::Unsupported { operation } if *operation == FOREIGN_MEMBER => return PyRuntimeError::new_err(text),
        Error::ChannelFull { .. } => FULL.import(py, "channels.exceptions", "ChannelFull"),
        Error::Redis { .. } | Error::UnsupportedServer { .. } => REDIS.import(py, MODULE, "RedisError"),
        Error::MessageTooLarge { .. } | Error::Codec { .. } => MESSAGE.import(py, MODULE, "MessageError"),
        _ => OTHER.import(py, MODULE, "ChannelLayerError"),
    };
    let exception = class.and_then(|class| {
        let exception = class.call1((text,))?;
        if !matches!(error, Error::ChannelFull { .. }) {
            exception.setattr("transient", error.is_transient())?;
            exception.setattr("may_have_run", error.may_have_run())?;
        }
        Ok(exception)
    });
    exception.map_or_else(|failed| failed, PyErr::from_value)
}
