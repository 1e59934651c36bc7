//! `Sentinels`: locates the master of a service by the majority of the sentinels' answers.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, FromRedisValue, RedisError};

use crate::config::{Config, Host};
use crate::error::Result;
use crate::redis::node::cluster::Address;
use crate::redis::node::endpoint::{Endpoint, EndpointError};
use crate::redis::node::fault;

const DEFAULT_PORT: u16 = 26379;

/// The sentinels of a configuration. Each query goes to all of them at once, over new connections.
pub(crate) struct Sentinels {
    all: Vec<Sentinel>,
    connect: Duration,
    command: Duration,
}

struct Sentinel {
    /// The configured host without credentials.
    name: String,
    endpoint: Endpoint,
}

/// Why the sentinels located no master.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SentinelError {
    #[error("no sentinel knows service {0}")]
    UnknownService(String),
    #[error("the sentinels monitor no service")]
    NoServices,
    /// Holds the error of each of them.
    #[error("no sentinel answered: {}", .0.join("; "))]
    Silent(Vec<String>),
}

/// Why the query of one sentinel failed.
#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error(transparent)]
    Endpoint(#[from] EndpointError),
    #[error("{}", fault::text(.0))]
    Redis(#[from] RedisError),
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl Sentinels {
    /// The sentinels of `config`.
    pub(crate) fn new(config: &Config) -> Result<Self> {
        let sentinel = |(at, host): (usize, &Host)| {
            let refuse = |error: EndpointError| error.of_option(format!("sentinels[{at}]"), host);
            let endpoint = Endpoint::at(&host.url_with_port(DEFAULT_PORT), config).map_err(refuse)?;
            endpoint.client().map_err(refuse)?;
            Ok(Sentinel { name: host.to_string(), endpoint })
        };
        let all = config.sentinels.iter().enumerate().map(sentinel).collect::<Result<_>>()?;
        Ok(Self { all, connect: config.connect_timeout, command: config.command_timeout })
    }

    /// The names of all services that they monitor, sorted.
    pub(crate) async fn services(&self) -> Result<Vec<String>, SentinelError> {
        let mut question = redis::cmd("SENTINEL");
        question.arg("MASTERS");
        let answer = self.query(&question, |masters: Vec<HashMap<String, String>>| {
            let mut names: Vec<_> = masters.into_iter().filter_map(|mut master| master.remove("name")).collect();
            names.sort();
            Some(names)
        });
        match answer.await? {
            Some(names) if !names.is_empty() => Ok(names),
            _ => Err(SentinelError::NoServices),
        }
    }

    /// The address of the master of `service`.
    pub(crate) async fn master(&self, service: &str) -> Result<Address, SentinelError> {
        let mut question = redis::cmd("SENTINEL");
        question.arg("GET-MASTER-ADDR-BY-NAME").arg(service);
        let address = self.query(&question, |address: Option<Address>| address).await?;
        address.ok_or_else(|| SentinelError::UnknownService(service.into()))
    }

    /// Returns the answer of the majority as soon as it is certain, or else the most frequent one. Returns `None` if no
    /// sentinel that answered knows the service.
    async fn query<A, T>(
        &self,
        question: &redis::Cmd,
        read: impl Fn(A) -> Option<T>,
    ) -> Result<Option<T>, SentinelError>
    where
        A: FromRedisValue,
        T: PartialEq,
    {
        let mut asked: FuturesUnordered<_> =
            self.all.iter().map(|sentinel| self.query_one(sentinel, question)).collect();
        let mut votes = Votes::of(self.all.len());
        let mut failures = Vec::new();
        while let Some(answer) = asked.next().await {
            match answer {
                Ok(answer) => {
                    if let Some(answer) = read(answer)
                        && votes.add(answer)
                    {
                        break;
                    }
                }
                Err(failure) => failures.push(failure),
            }
        }
        if failures.len() == self.all.len() {
            return Err(SentinelError::Silent(failures));
        }
        Ok(votes.winner())
    }

    async fn query_one<A: FromRedisValue>(&self, sentinel: &Sentinel, question: &redis::Cmd) -> Result<A, String> {
        let limit = self.connect + self.command;
        let asking = async {
            let mut connection = self.connect(sentinel).await?;
            Ok(question.query_async(&mut connection).await?)
        };
        let answer = tokio::time::timeout(limit, asking).await.unwrap_or(Err(Failure::Timeout(limit)));
        answer.map_err(|failure| format!("{}: {failure}", sentinel.name))
    }

    async fn connect(&self, sentinel: &Sentinel) -> Result<MultiplexedConnection, Failure> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect))
            .set_response_timeout(Some(self.command));
        Ok(sentinel.endpoint.client()?.get_multiplexed_async_connection_with_config(&config).await?)
    }
}

impl fmt::Debug for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(|sentinel| &sentinel.name)).finish()
    }
}

/// Counts equal answers.
struct Votes<T> {
    voters: usize,
    counts: Vec<(T, usize)>,
}

impl<T: PartialEq> Votes<T> {
    fn of(voters: usize) -> Self {
        Self { voters, counts: Vec::new() }
    }

    /// Counts `answer`. Returns whether more than half of all voters agree on it.
    fn add(&mut self, answer: T) -> bool {
        let count = match self.counts.iter_mut().find(|(other, _)| *other == answer) {
            Some((_, count)) => {
                *count += 1;
                *count
            }
            None => {
                self.counts.push((answer, 1));
                1
            }
        };
        count * 2 > self.voters
    }

    /// The most frequent answer. If several are equally frequent, the one that came first.
    fn winner(self) -> Option<T> {
        self.counts.into_iter().rev().max_by_key(|(_, count)| *count).map(|(answer, _)| answer)
    }
}

#[cfg(test)]
mod tests {
    use super::Votes;

    #[test]
    fn a_majority_decides_at_once() {
        let mut votes = Votes::of(3);
        assert!(!votes.add("a"));
        assert!(!votes.add("b"));
        assert!(votes.add("b"));
        assert_eq!(votes.winner(), Some("b"));
        assert!(Votes::of(1).add("a"));
        assert!(!Votes::of(2).add("a"));
    }

    #[test]
    fn without_a_majority_the_most_frequent_and_then_the_first_answer_wins() {
        let mut votes = Votes::of(5);
        assert!(!["a", "b", "b", "c"].map(|answer| votes.add(answer)).contains(&true));
        assert_eq!(votes.winner(), Some("b"));
        let mut votes = Votes::of(3);
        assert!(!["x", "y"].map(|answer| votes.add(answer)).contains(&true));
        assert_eq!(votes.winner(), Some("x"));
        assert_eq!(Votes::<&str>::of(3).winner(), None);
    }
}
