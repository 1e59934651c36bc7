//! The options that say where the servers are, how to log in, and how patient connections are.

use std::path::PathBuf;
use std::time::Duration;

use super::host::Host;
use super::options::Config;

const DEFAULT_HOST: &str = "redis://127.0.0.1:6379/0";

impl Config {
    /// Adds a Redis server; channels and groups are spread over all that are added. Defaults to the one at
    /// `redis://127.0.0.1:6379/0`.
    #[must_use]
    pub fn host(mut self, host: impl Into<Host>) -> Self {
        self.hosts.get_or_insert_default().push(host.into());
        self
    }

    /// Sets all Redis servers. Defaults to the one at `redis://127.0.0.1:6379/0`.
    #[must_use]
    pub fn hosts<H: Into<Host>>(mut self, hosts: impl IntoIterator<Item = H>) -> Self {
        self.hosts = Some(hosts.into_iter().map(Into::into).collect());
        self
    }

    /// Adds a sentinel, which tells where the masters are; they then take the place of [`hosts`](Self::hosts). Its URL may
    /// have a user and a password of its own, and `rediss` for TLS; without a port it is 26379. Defaults to none.
    ///
    /// All sentinels are asked at once, and what most of them say is taken: at each connect, when a connection is lost,
    /// and every [`sentinel_refresh_interval`](Self::sentinel_refresh_interval).
    #[must_use]
    pub fn sentinel(mut self, sentinel: impl Into<Host>) -> Self {
        self.sentinels.push(sentinel.into());
        self
    }

    /// Sets all sentinels, as [`sentinel`](Self::sentinel) adds one. Defaults to none.
    #[must_use]
    pub fn sentinels<H: Into<Host>>(mut self, sentinels: impl IntoIterator<Item = H>) -> Self {
        self.sentinels = sentinels.into_iter().map(Into::into).collect();
        self
    }

    /// The names under which the sentinels know the masters. Channels and groups are spread over them by these names, so
    /// that a failover moves nothing. Defaults to all that the sentinels know when the layer is made.
    #[must_use]
    pub fn services<S: Into<String>>(mut self, services: impl IntoIterator<Item = S>) -> Self {
        self.services = services.into_iter().map(Into::into).collect();
        self
    }

    /// The user as whom to log in to the masters. Defaults to none: the user `default`, if there is a password.
    #[must_use]
    pub fn service_username(mut self, username: impl Into<String>) -> Self {
        self.service_login.username = Some(username.into());
        self
    }

    /// The password of the masters; that of a sentinel is in its URL. Defaults to none.
    #[must_use]
    pub fn service_password(mut self, password: impl Into<String>) -> Self {
        self.service_login.password = Some(password.into());
        self
    }

    /// The database of the masters, from 0 to 65535. Defaults to 0.
    #[must_use]
    pub fn service_db(mut self, db: u32) -> Self {
        self.service_login.db = db;
        self
    }

    /// Whether to speak TLS with the masters. Defaults to false.
    #[must_use]
    pub fn service_tls(mut self, tls: bool) -> Self {
        self.service_login.tls = tls;
        self
    }

    /// How often the sentinels are asked whether a master is still the master, from 1 ms to 1 day. Defaults to 10 s.
    #[must_use]
    pub fn sentinel_refresh_interval(mut self, interval: Duration) -> Self {
        self.sentinel_refresh_interval = interval;
        self
    }

    /// A PEM file with the certificates of the authorities that sign the certificates of `rediss://` servers and sentinels. It
    /// is read at each connect. Defaults to none, and the public authorities of Mozilla's list.
    #[must_use]
    pub fn tls_ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.ca = Some(path.into());
        self
    }

    /// A file with the certificate, in PEM, by which servers with `tls-auth-clients` know us, followed by those between
    /// it and the authority. It is read at each connect. Defaults to none.
    #[must_use]
    pub fn tls_cert_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.cert = Some(path.into());
        self
    }

    /// A file with the key, in PEM, of [`tls_cert_file`](Self::tls_cert_file). It is read at each connect. Defaults to
    /// none.
    #[must_use]
    pub fn tls_key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.key = Some(path.into());
        self
    }

    /// How long connecting to a server may take, from 10 ms to 1 day. Defaults to 1 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// How long a server may take to answer a command, from 10 ms to 1 day. Defaults to 4 s.
    #[must_use]
    pub fn command_timeout(mut self, timeout: Duration) -> Self {
        self.command_timeout = timeout;
        self
    }

    /// How long one blocking read waits in Redis before it is repeated, from 1 ms to 1 day. Defaults to 5 s.
    #[must_use]
    pub fn blocking_timeout(mut self, timeout: Duration) -> Self {
        self.blocking_timeout = timeout;
        self
    }

    /// Connections for blocking reads on each host, from 1 to 65535 connections. As many readers can wait at once.
    /// Defaults to 256.
    #[must_use]
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.pool_size = connections;
        self
    }

    /// How often a command is tried again, from 0 to 4294967295 attempts, if it cannot have run: there was no connection, or the server refused it
    /// because it starts or is no master any more. What may have run is never tried again. A layer that publishes or falls
    /// back does not wait for that. Defaults to 0: callers hear of an outage at once.
    #[must_use]
    pub fn retry_attempts(mut self, attempts: usize) -> Self {
        self.retry_attempts = attempts;
        self
    }

    /// The pause before a command or a connection is tried again, from 1 ms to 10 s. Each further one is twice as long, up
    /// to 10 s, and shortened at random by up to half. Defaults to 250 ms.
    #[must_use]
    pub fn retry_backoff(mut self, pause: Duration) -> Self {
        self.retry_backoff = pause;
        self
    }

    /// How long a TCP connection may be idle before the kernel probes whether the other end is there, from 1 s to
    /// 32767 s. Defaults to 30 s.
    #[must_use]
    pub fn tcp_keepalive(mut self, idle: Duration) -> Self {
        self.tcp_keepalive = idle;
        self
    }

    /// The hosts in their order, the default one if none was given.
    pub(crate) fn host_list(&self) -> Vec<Host> {
        self.hosts.clone().unwrap_or_else(|| vec![DEFAULT_HOST.into()])
    }

    /// Whether servers were given, and not only the default one is left.
    pub(crate) fn names_servers(&self) -> bool {
        self.hosts.is_some() || !self.sentinels.is_empty()
    }
}
