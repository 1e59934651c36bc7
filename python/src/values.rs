//! Values of Python as values of the crate, and back. Each value is converted once, and copied once.

use std::fmt;

use bytes::Bytes;
use channel_layer::{Map, Message, Text, Value};
use pyo3::IntoPyObjectExt;
use pyo3::exceptions::{PyOverflowError, PyTypeError, PyValueError};
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBool, PyBytes, PyDict, PyFloat, PyInt, PyList, PyString, PyTuple};

/// How deep maps and lists may be nested, as in the crate.
const MAX_DEPTH: usize = 128;

/// From this size on a byte string is not copied: the message refers to the object.
const SHARED_BYTES: usize = 16 << 10;

/// Why a value cannot be sent, and where in the message it stands.
struct Refused {
    /// The keys and indexes that lead to the value, the innermost first.
    path: Vec<Step>,
    reason: Reason,
}

enum Step {
    Key(String),
    Index(usize),
}

enum Reason {
    Type(String),
    KeyType(String),
    Integer,
    Depth,
    Other(PyErr),
}

type Converted<T> = Result<T, Refused>;

/// Converts a message.
///
/// # Errors
///
/// `TypeError` for a value of a type that messages do not have, `OverflowError` for an integer beyond 64 bits, and
/// `ValueError` for text with lone surrogates and for nesting that is too deep. Each names the place in the message.
pub(crate) fn to_message(message: &Bound<'_, PyDict>) -> PyResult<Message> {
    to_map(message, MAX_DEPTH).map(Message::from).map_err(Refused::into_error)
}

/// Converts a message back. Every call returns new objects.
pub(crate) fn message_to_python(py: Python<'_>, message: &Message) -> PyResult<Py<PyAny>> {
    map_to_python(py, message.map()).map(|map| map.into_any().unbind())
}

fn to_map(dict: &Bound<'_, PyDict>, depth: usize) -> Converted<Map> {
    let inside = depth.checked_sub(1).ok_or_else(|| Refused::new(Reason::Depth))?;
    let entries: Vec<(Text, Value)> = dict
        .iter()
        .map(|(key, value)| {
            let key = match key.cast::<PyString>() {
                Ok(key) => to_text(key)?,
                Err(_) => return Err(Refused::new(Reason::KeyType(type_name(&key)))),
            };
            let value = to_value(&value, inside).map_err(|refused| refused.inside(Step::Key(key.to_string())))?;
            Ok((key, value))
        })
        .collect::<Converted<_>>()?;
    Ok(entries.into_iter().collect())
}

/// Subclasses of these types are converted as their base: so are a `SafeString` of Django and an `IntEnum`.
fn to_value(value: &Bound<'_, PyAny>, depth: usize) -> Converted<Value> {
    if let Ok(text) = value.cast::<PyString>() {
        Ok(Value::Text(to_text(text)?))
    } else if value.is_none() {
        Ok(Value::None)
    } else if let Ok(flag) = value.cast::<PyBool>() {
        Ok(Value::Bool(flag.is_true()))
    } else if value.is_instance_of::<PyInt>() {
        value.extract().map(Value::Int).map_err(|_| Refused::new(Reason::Integer))
    } else if let Ok(float) = value.cast::<PyFloat>() {
        Ok(Value::Float(float.value()))
    } else if let Ok(bytes) = value.cast::<PyBytes>() {
        Ok(Value::Bytes(to_bytes(bytes)))
    } else if let Ok(dict) = value.cast::<PyDict>() {
        to_map(dict, depth).map(Value::Map)
    } else if let Ok(list) = value.cast::<PyList>() {
        to_list(list.iter(), depth)
    } else if let Ok(tuple) = value.cast::<PyTuple>() {
        to_list(tuple.iter(), depth)
    } else {
        Err(Refused::new(Reason::Type(type_name(value))))
    }
}

fn to_list<'py>(values: impl Iterator<Item = Bound<'py, PyAny>>, depth: usize) -> Converted<Value> {
    let inside = depth.checked_sub(1).ok_or_else(|| Refused::new(Reason::Depth))?;
    let convert = |(at, value)| to_value(&value, inside).map_err(|refused| refused.inside(Step::Index(at)));
    values.enumerate().map(convert).collect::<Converted<_>>().map(Value::List)
}

fn to_text(text: &Bound<'_, PyString>) -> Converted<Text> {
    text.to_str().map(Text::from).map_err(|error| Refused::new(Reason::Other(error)))
}

fn to_bytes(bytes: &Bound<'_, PyBytes>) -> Bytes {
    if bytes.as_bytes().len() < SHARED_BYTES {
        return Bytes::copy_from_slice(bytes.as_bytes());
    }
    Bytes::from_owner(PyBackedBytes::from(bytes.clone()))
}

fn type_name(value: &Bound<'_, PyAny>) -> String {
    value.get_type().fully_qualified_name().map_or_else(|_| "unknown".into(), |name| name.to_string())
}

fn map_to_python<'py>(py: Python<'py>, map: &Map) -> PyResult<Bound<'py, PyDict>> {
    let dict = PyDict::new(py);
    for (key, value) in map {
        dict.set_item(key, value_to_python(py, value)?)?;
    }
    Ok(dict)
}

fn value_to_python<'py>(py: Python<'py>, value: &Value) -> PyResult<Bound<'py, PyAny>> {
    match value {
        Value::None => Ok(py.None().into_bound(py)),
        Value::Bool(flag) => flag.into_bound_py_any(py),
        Value::Int(int) => int.into_bound_py_any(py),
        Value::Float(float) => float.into_bound_py_any(py),
        Value::Text(text) => Ok(PyString::new(py, text).into_any()),
        Value::Bytes(bytes) => Ok(PyBytes::new(py, bytes).into_any()),
        Value::List(values) => {
            let values: Vec<_> = values.iter().map(|value| value_to_python(py, value)).collect::<PyResult<_>>()?;
            Ok(PyList::new(py, values)?.into_any())
        }
        Value::Map(map) => map_to_python(py, map).map(Bound::into_any),
    }
}

impl Refused {
    fn new(reason: Reason) -> Self {
        Self { path: Vec::new(), reason }
    }

    fn inside(mut self, step: Step) -> Self {
        self.path.push(step);
        self
    }

    fn into_error(self) -> PyErr {
        let text = self.to_string();
        match self.reason {
            Reason::Type(_) | Reason::KeyType(_) => PyTypeError::new_err(text),
            Reason::Integer => PyOverflowError::new_err(text),
            Reason::Depth | Reason::Other(_) => PyValueError::new_err(text),
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("message")?;
        // A path through all levels would not help.
        for step in self.path.iter().rev().take(8) {
            match step {
                Step::Key(key) => write!(f, "[{key:?}]")?,
                Step::Index(at) => write!(f, "[{at}]")?,
            }
        }
        match &self.reason {
            Reason::Type(name) => write!(f, " cannot be sent: a message cannot hold a value of type {name}"),
            Reason::KeyType(name) => write!(f, " cannot be sent: its keys must be str, not {name}"),
            Reason::Integer => f.write_str(" cannot be sent: the integer does not fit into 64 bits"),
            Reason::Depth => write!(f, " cannot be sent: more than {MAX_DEPTH} levels are nested"),
            Reason::Other(error) => write!(f, " cannot be sent: {error}"),
        }
    }
}
