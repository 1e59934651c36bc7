//! Calls that several layers, servers or members carry out together: one result, which knows of every part.

use crate::error::{Error, Result};

/// The outcomes of the parts of one call.
///
/// A caller may repeat a call that fails without [`may_have_run`](Error::may_have_run), so a call of which any part ran
/// must not fail that way.
#[derive(Debug, Default)]
pub(crate) struct Parts {
    /// Whether a part ran, or may have run.
    some_ran: bool,
    /// The failure that the call reports.
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
        // The failure of a server explains more than the end of a layer; among equals the first one is reported.
        if self.failed.as_ref().is_none_or(Error::is_closed) {
            self.failed = Some(error);
        }
    }

    /// The result of the whole call: the failure of a part, which may have run if any part may have.
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
    use crate::redis::fault::Fault;

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
    fn a_call_of_which_no_part_ran_fails_as_if_it_had_not_been_made() {
        assert!(matches!(result([closed(), closed()]), Err(Error::Closed)));
        for parts in [[failed(), closed()], [closed(), failed()]] {
            let error = result(parts).unwrap_err();
            assert!(matches!(error, Error::Redis { shard: 1, .. }) && !error.may_have_run(), "{error:?}");
        }
    }

    #[test]
    fn a_call_of_which_a_part_ran_may_have_run() {
        for parts in [[Ok(()), closed()], [closed(), Ok(())], [Ok(()), failed()], [failed(), Ok(())]] {
            let error = result(parts).unwrap_err();
            assert!(matches!(error, Error::Redis { .. }) && error.may_have_run(), "{error:?}");
        }
        assert!(result([Ok(()), Ok(())]).is_ok());
        assert!(result([]).is_ok());
    }
}
