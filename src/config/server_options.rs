//! The options for addresses of servers, logins, TLS, timeouts and retries.

use std::path::PathBuf;
use std::time::Duration;

use super::host::Host;
use super::options::Config;

const DEFAULT_HOST: &str = "redis://127.0.0.1:6379/0";

impl Config {
    /// Adds a Redis server. Channels and groups are distributed over all servers. Defaults to one server at
    /// `redis://127.0.0.1:6379/0`.
    #[must_use]
    pub fn host(mut self, host: impl Into<Host>) -> Self {
        self.hosts.get_or_insert_default().push(host.into());
        self
    }

    /// Sets the list of Redis servers. Defaults to one server at `redis://127.0.0.1:6379/0`.
    #[must_use]
    pub fn hosts<H: Into<Host>>(mut self, hosts: impl IntoIterator<Item = H>) -> Self {
        self.hosts = Some(hosts.into_iter().map(Into::into).collect());
        self
    }

    /// Whether the [hosts](Self::hosts) are nodes of a Redis Cluster, which needs Redis 7.0 and the format native. Some
    /// of its nodes suffice, because they name the others. All hosts need the same user and password, and either all or
    /// none use TLS: these settings apply to every node. Defaults to `false`.
    ///
    /// The slot of its name decides where a channel or a group is stored. A normal channel is in one slot too, unless a
    /// rule [spreads](Self::spread) it.
    #[must_use]
    pub fn cluster(mut self, cluster: bool) -> Self {
        self.cluster = cluster;
        self
    }

    /// Adds a sentinel. The layer then finds the masters through sentinels and not through [`hosts`](Self::hosts). The
    /// URL may have its own user and password, and the scheme `rediss` for TLS. The default port is 26379. Defaults to
    /// none.
    ///
    /// The layer asks all sentinels at the same time and uses the answer of the majority. It asks at each connect, when
    /// a connection is lost, and every [`sentinel_refresh_interval`](Self::sentinel_refresh_interval).
    #[must_use]
    pub fn sentinel(mut self, sentinel: impl Into<Host>) -> Self {
        self.sentinels.push(sentinel.into());
        self
    }

    /// Sets the list of sentinels; see [`sentinel`](Self::sentinel). Defaults to none.
    #[must_use]
    pub fn sentinels<H: Into<Host>>(mut self, sentinels: impl IntoIterator<Item = H>) -> Self {
        self.sentinels = sentinels.into_iter().map(Into::into).collect();
        self
    }

    /// Names of the masters in the configuration of the sentinels. A hash of these names decides which master stores a
    /// channel or group, so that a failover moves none of them. Defaults to all masters that the sentinels know when
    /// the layer is created.
    #[must_use]
    pub fn services<S: Into<String>>(mut self, services: impl IntoIterator<Item = S>) -> Self {
        self.services = services.into_iter().map(Into::into).collect();
        self
    }

    /// User for the login to the masters. Defaults to none: the user `default`, if a password is set.
    #[must_use]
    pub fn service_username(mut self, username: impl Into<String>) -> Self {
        self.service_login.username = Some(username.into());
        self
    }

    /// Password for the login to the masters. The password of a sentinel belongs in its URL. Defaults to none.
    #[must_use]
    pub fn service_password(mut self, password: impl Into<String>) -> Self {
        self.service_login.password = Some(password.into());
        self
    }

    /// Database number on the masters, from 0 to 65535. Defaults to 0.
    #[must_use]
    pub fn service_db(mut self, db: u32) -> Self {
        self.service_login.db = db;
        self
    }

    /// Whether connections to the masters use TLS. Defaults to false.
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

    /// PEM file with the certificates of the authorities that sign the certificates of `rediss://` servers and
    /// sentinels. It is read at each connect. Defaults to none: the public authorities of Mozilla's list are accepted.
    #[must_use]
    pub fn tls_ca_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.ca = Some(path.into());
        self
    }

    /// PEM file with the client certificate for servers with `tls-auth-clients`, followed by the intermediate
    /// certificates. It is read at each connect. Defaults to none.
    #[must_use]
    pub fn tls_cert_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.cert = Some(path.into());
        self
    }

    /// PEM file with the private key of [`tls_cert_file`](Self::tls_cert_file). It is read at each connect. Defaults to
    /// none.
    #[must_use]
    pub fn tls_key_file(mut self, path: impl Into<PathBuf>) -> Self {
        self.tls.key = Some(path.into());
        self
    }

    /// Time limit for connecting to a server, from 10 ms to 1 day. Defaults to 1 s.
    #[must_use]
    pub fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Time limit for the reply of a server to a command, from 10 ms to 1 day. Defaults to 4 s.
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

    /// Number of connections for blocking reads per host, from 1 to 65535 connections. It limits the number of readers
    /// that wait at the same time. Defaults to 256.
    #[must_use]
    pub fn pool_size(mut self, connections: usize) -> Self {
        self.pool_size = connections;
        self
    }

    /// Number of retries of a command, from 0 to 4294967295 attempts. A command is retried only if it cannot have run:
    /// there was no connection, or the server refused the command because it is starting or no longer the master. A
    /// command that may have run is retried only if it reads and changes nothing. Layers with pub/sub or a fallback do
    /// not retry. Defaults to 0: calls fail at once during an outage.
    #[must_use]
    pub fn retry_attempts(mut self, attempts: usize) -> Self {
        self.retry_attempts = attempts;
        self
    }

    /// Delay before the first retry of a command or a connection, from 1 ms to 10 s. Each further delay is twice as
    /// long, up to 10 s. Jitter shortens each delay at random by up to half. Defaults to 250 ms.
    #[must_use]
    pub fn retry_backoff(mut self, pause: Duration) -> Self {
        self.retry_backoff = pause;
        self
    }

    /// How long a TCP connection may be idle before the kernel probes the peer, from 1 s to 32767 s. Defaults to 30 s.
    #[must_use]
    pub fn tcp_keepalive(mut self, idle: Duration) -> Self {
        self.tcp_keepalive = idle;
        self
    }

    /// The hosts in their order. The default host if none is set.
    pub(crate) fn host_list(&self) -> Vec<Host> {
        self.hosts.clone().unwrap_or_else(|| vec![DEFAULT_HOST.into()])
    }

    /// Whether the configuration sets hosts or sentinels.
    pub(crate) fn names_servers(&self) -> bool {
        self.hosts.is_some() || !self.sentinels.is_empty()
    }
}
