//! Two readers that wait for one channel.

use std::time::Duration;

use tokio::time::Instant;

/// How long the first turn is, and the longest.
const FIRST_TURN: Duration = Duration::from_millis(10);
const LONGEST_TURN: Duration = Duration::from_secs(1);

/// With another reader that waits for a channel which can have one. They take turns, each a longer one than the last:
/// otherwise they would end each other's reads all the time.
pub(crate) struct Contention {
    /// When the other one will have had its turn, if it has one.
    until: Option<Instant>,
    /// How long the next turn is.
    turn: Duration,
}

impl Default for Contention {
    fn default() -> Self {
        Self { until: None, turn: FIRST_TURN }
    }
}

impl Contention {
    /// Gives the other one its turn.
    pub(crate) fn yields(&mut self) {
        self.until = Some(Instant::now() + self.turn);
        self.turn = (self.turn * 2).min(LONGEST_TURN);
    }

    /// The channels are this reader's, which it found uncontested or had waited for.
    pub(crate) fn is_won(&mut self, uncontested: bool) {
        self.until = None;
        if uncontested {
            self.turn = FIRST_TURN;
        }
    }

    /// Whether the other one has been given a turn.
    pub(crate) fn has_yielded(&self) -> bool {
        self.until.is_some()
    }

    /// When the turn of the other one ends, if it goes on.
    pub(crate) fn pause(&self) -> Option<Instant> {
        self.until.filter(|until| *until > Instant::now())
    }
}
