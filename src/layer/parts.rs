//! `Parts`: one result for a call that several layers, servers or members carry out together.

use crate::error::{Error, Result};

/// The outcomes of the parts of one call.
///
/// A caller may repeat a call that fails without [`may_have_run`](Error::may_have_run). A call must therefore not fail
/// that way if any part of it ran.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// Whether a part ran, or may have run.
    some_ran: bool,
    /// The error that the call reports.
    failed: Option<Error>,
}

impl Parts {
    /// Adds the outcome of one part.
    pub(crate) fn add(&mut self, outcome: Result<()>) {
        let Err(error) = outcome else {
            self.some_ran = true;
            return;
        };
        self.some_ran |= error.may_have_run();
        // The error of a server explains more than the end of a layer. Among equals the first one is reported.
        if self.failed.as_ref().is_none_or(Error::is_closed) {
            self.failed = Some(error);
        }
    }

    /// Returns the result of the whole call. The error of a part is marked `may_have_run` if any part may have run.
    pub(crate) fn result(self) -> Result<()> {
        match self.failed {
            Some(error) if self.some_ran => Err(error.of_a_part()),
            Some(error) => Err(error),
            None => Ok(()),
        }
    }
}

impl FromIterator<Result<()>> for Parts {
    fn from_iter<I: IntoIterator<Item = Result<()>>>(outcomes: I) -> Self {
        let mut parts = Self::default();
        outcomes.into_iter().for_each(|outcome| parts.add(outcome));
        parts
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::redis::node::fault::Fault;

    fn result(outcomes: impl IntoIterator<Item = Result<()>>) -> Result<()> {
        outcomes.into_iter().collect::<Parts>().result()
    }

    fn failed() -> Result<()> {
        let fault = Fault::unexpected("none").before_sending();
        Err(Error::Redis { shard: 1, cause: Box::new(fault.at("127.0.0.1:6379")) })
    }

    fn closed() -> Result<()> {
        Err(Error::Closed)
    }

    #[test]
    fn a_call_without_a_part_that_ran_has_not_run() {
        assert!(matches!(result([closed(), closed()]), Err(Error::Closed)));
        for parts in [[failed(), closed()], [closed(), failed()]] {
            let error = result(parts).unwrap_err();
            assert!(matches!(error, Error::Redis { shard: 1, .. }) && !error.may_have_run(), "{error:?}");
        }
    }

    #[test]
    fn a_call_with_a_part_that_ran_may_have_run() {
        for parts in [[Ok(()), closed()], [closed(), Ok(())], [Ok(()), failed()], [failed(), Ok(())]] {
            let error = result(parts).unwrap_err();
            assert!(matches!(error, Error::Redis { .. }) && error.may_have_run(), "{error:?}");
        }
        assert!(result([Ok(()), Ok(())]).is_ok());
        assert!(result([]).is_ok());
    }
}
