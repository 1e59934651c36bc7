//! `Outcome`: what a call returns, before it becomes a Python object.

use channel_layer::{ChannelName, Error};
use pyo3::IntoPyObjectExt;
use pyo3::prelude::*;
use pyo3::types::{PyList, PyNone};

use crate::errors;
use crate::inbox::delivery::Delivery;

/// What a call returns.
pub(crate) enum Outcome {
    None,
    Name(String),
    Names(Vec<ChannelName>),
    /// The results of several sends: `None`, or an exception.
    Results(Vec<Result<(), Error>>),
    /// A JSON text, which becomes its value.
    Json(String),
    Message(Delivery),
}

impl Outcome {
    pub(crate) fn into_python(self, py: Python<'_>) -> PyResult<Py<PyAny>> {
        match self {
            Self::None => Ok(py.None()),
            Self::Name(name) => name.into_py_any(py),
            Self::Names(names) => Ok(PyList::new(py, names.iter().map(ChannelName::as_str))?.into_any().unbind()),
            Self::Results(results) => {
                let results = results.into_iter().map(|result| match result {
                    Ok(()) => PyNone::get(py).to_owned().into_any(),
                    Err(error) => errors::raised(py, &error).into_value(py).into_bound(py).into_any(),
                });
                Ok(PyList::new(py, results.collect::<Vec<_>>())?.into_any().unbind())
            }
            Self::Json(text) => Ok(py.import("json")?.call_method1("loads", (text,))?.unbind()),
            Self::Message(delivery) => delivery.into_python(py),
        }
    }
}
