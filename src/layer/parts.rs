//! `Parts` and `GroupSendOutcomes`: one result for a call that several layers, servers or members carry out together.

use crate::drops::CountedIfUnread;
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

    /// Returns the result of the whole call. Its error is marked `may_have_run` if any part may have run.
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

/// The outcomes of the parts of one group send.
///
/// If no part may have run, the error tells the caller so, and nothing is counted. Otherwise no caller learns which
/// parts failed. Each of them then counts as dropped, and so it does if the call is dropped.
#[derive(Default)]
pub(crate) struct GroupSendOutcomes {
    parts: Parts,
    counts: Vec<CountedIfUnread<()>>,
}

impl GroupSendOutcomes {
    /// Adds the outcome of one part. A full channel is no error of the call.
    pub(crate) fn add(&mut self, outcome: CountedIfUnread<Result<()>>) {
        let (result, count) = outcome.split();
        self.counts.push(count);
        if !matches!(result, Err(Error::ChannelFull { .. })) {
            self.parts.add(result);
        }
    }

    /// Returns the result of the whole call, as [`Parts::result`].
    pub(crate) fn result(self) -> Result<()> {
        let Self { parts, counts } = self;
        let result = parts.result();
        if result.as_ref().is_err_and(|error| !error.may_have_run()) {
            counts.into_iter().for_each(CountedIfUnread::read);
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use metrics_util::debugging::DebuggingRecorder;

    use super::*;
    use crate::drops;
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

    #[test]
    fn the_parts_of_a_group_send_count_as_dropped_if_another_part_ran() {
        let recorder = DebuggingRecorder::new();
        let _recording = metrics::set_default_local_recorder(&recorder);
        let group_send = |parts: [Result<()>; 2]| {
            let mut result = GroupSendOutcomes::default();
            for part in parts {
                result.add(CountedIfUnread::of_send(part));
            }
            result.result()
        };
        assert!(!group_send([failed(), closed()]).unwrap_err().may_have_run());
        assert!(drops::recorded(&recorder).is_empty());
        assert!(group_send([Ok(()), closed()]).unwrap_err().may_have_run());
        assert_eq!(drops::recorded(&recorder), [("closed".to_owned(), 1)]);
        assert!(group_send([failed(), Ok(())]).unwrap_err().may_have_run());
        assert!(drops::recorded(&recorder).contains(&("shard_down".to_owned(), 1)));
    }
}
