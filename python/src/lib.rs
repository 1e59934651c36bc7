//! The native module of the Python package `channel-layer`: the layers of the crate, for asyncio.
//!
//! `layer.rs` is the class that Python sees. A call goes through the [`bridge`], and a receive through the [`inbox`].

mod bridge;
mod core;
mod errors;
mod inbox;
mod layer;
mod outcome;
mod runtime;
mod values;

use pyo3::prelude::*;

/// The native part of `channel_layer`.
#[pymodule]
mod _native {
    #[pymodule_export]
    use super::after_fork;
    #[pymodule_export]
    use super::bridge::call::Call;
    #[pymodule_export]
    use super::layer::{Layer, close_all, doctor};
    use super::runtime;
    use pyo3::prelude::*;

    #[pymodule_init]
    #[allow(clippy::unnecessary_wraps, reason = "PyO3 expects a result")]
    fn init(_module: &Bound<'_, PyModule>) -> PyResult<()> {
        runtime::enter_process();
        Ok(())
    }
}

/// Prepares the child of a fork. The generator of random numbers of its thread is a copy of the parent's, and would
/// yield the same names, salts and nonces in every child.
#[pyfunction]
fn after_fork() -> PyResult<()> {
    runtime::enter_process();
    rand::rng().reseed().map_err(|error| pyo3::exceptions::PyOSError::new_err(error.to_string()))
}
