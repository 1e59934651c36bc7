//! `Contention`: turns of two readers that wait for the same single-reader channel.

use std::time::Duration;

use tokio::time::Instant;

/// The lengths of the first turn and of the longest one.
const FIRST_TURN: Duration = Duration::from_millis(10);
const LONGEST_TURN: Duration = Duration::from_secs(1);

/// The turns of two readers that wait for the same single-reader channel. Each turn is twice as long as the last one:
/// without turns the readers would end each other's reads continuously.
pub(crate) struct Contention {
    /// When the turn of the other reader ends; `None` if it was given none.
    until: Option<Instant>,
    /// The length of the next turn.
    turn: Duration,
}

impl Default for Contention {
    fn default() -> Self {
        Self { until: None, turn: FIRST_TURN }
    }
}

impl Contention {
    /// Starts a turn of the other reader.
    pub(crate) fn yield_turn(&mut self) {
        self.until = Some(Instant::now() + self.turn);
        self.turn = (self.turn * 2).min(LONGEST_TURN);
    }

    /// Records that this reader has acquired its channels. Turns are short again after an uncontested acquisition.
    pub(crate) fn acquired(&mut self, uncontested: bool) {
        self.until = None;
        if uncontested {
            self.turn = FIRST_TURN;
        }
    }

    /// Whether the other reader has been given a turn since the last acquisition.
    pub(crate) fn has_yielded(&self) -> bool {
        self.until.is_some()
    }

    /// When the present turn of the other reader ends; `None` if it has ended.
    pub(crate) fn yields_until(&self) -> Option<Instant> {
        self.until.filter(|until| *until > Instant::now())
    }
}
