//! Real servers: `initdb`, `pg_ctl` and, for TLS, `openssl` have to be there.

use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use super::{Target, target};
use crate::shell::clock;

/// A PostgreSQL server on 127.0.0.1 with its files in a directory of its own; both go with it.
pub(super) struct Postgres {
    pub(super) directory: PathBuf,
    port: u16,
}

impl Postgres {
    /// Makes a primary with the role `pglb`, a member of `pg_monitor`, password `secret`.
    pub(super) fn start(name: &str) -> Self {
        let postgres = Self::reserve(name);
        postgres.run(
            "initdb",
            "--auth=scram-sha-256 --username=admin --no-sync --pwfile",
            "pw",
        );
        postgres.configure("");
        postgres.pg_ctl("start");
        postgres.sql("CREATE ROLE pglb LOGIN IN ROLE pg_monitor PASSWORD 'secret'");
        postgres.sql("CREATE ROLE nobody LOGIN PASSWORD 'secret'");
        postgres
    }

    /// Makes a replica of a primary, which is streaming when this returns.
    pub(super) fn follow(primary: &Self, name: &str) -> Self {
        let replica = Self::reserve(name);
        let options = format!("-h 127.0.0.1 -p {} -U admin --no-sync -R -D", primary.port);
        replica.run("pg_basebackup", &options, "data");
        replica.configure("");
        replica.pg_ctl("start");
        replica.await_sql("SELECT status FROM pg_stat_wal_receiver", "streaming");
        replica
    }

    fn reserve(name: &str) -> Self {
        let directory = std::env::temp_dir().join(format!("pglb-{name}-{}", std::process::id()));
        fs::create_dir(&directory).unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        fs::write(directory.join("pw"), "secret\n").unwrap();
        let postgres = Self { directory, port };
        run(Command::new("chown")
            .args(["-R", "postgres"])
            .arg(&postgres.directory));
        postgres
    }

    /// Writes the settings; later ones win over earlier ones.
    pub(super) fn configure(&self, settings: &str) {
        let directory = self.directory.display();
        let settings = format!(
            "listen_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = '{directory}'\n\
             fsync = off\nlog_connections = on\nlog_disconnections = on\n\
             superuser_reserved_connections = 1\nmax_connections = 20\n{settings}",
            self.port
        );
        fs::write(
            self.directory.join("data/postgresql.auto.conf.pglb"),
            settings,
        )
        .unwrap();
        let include = "include 'postgresql.auto.conf.pglb'\n";
        let main = self.directory.join("data/postgresql.conf");
        let text = fs::read_to_string(&main).unwrap();
        if !text.contains(include) {
            fs::write(&main, text + include).unwrap();
        }
    }

    pub(super) fn pg_ctl(&self, verb: &str) {
        self.run(
            "pg_ctl",
            &format!("{verb} --silent -w -l {} -D", self.log().display()),
            "data",
        );
    }

    /// Runs one of the server's programs as its owner; the last argument is a file of its own.
    fn run(&self, program: &str, options: &str, file: &str) {
        let mut command = self.owner(program);
        command
            .args(options.split_whitespace())
            .arg(self.directory.join(file));
        if program == "initdb" {
            command.arg("-D").arg(self.directory.join("data"));
        }
        run(&mut command);
    }

    pub(super) fn owner(&self, program: &str) -> Command {
        let mut command = Command::new("runuser");
        command
            .current_dir(&self.directory)
            .env("PGPASSWORD", "secret");
        command
            .args(["-u", "postgres", "--"])
            .arg(binaries().join(program));
        command
    }

    pub(super) fn sql(&self, statement: &str) -> String {
        let mut command = self.owner("psql");
        let port = self.port.to_string();
        command.args([
            "-h",
            "127.0.0.1",
            "-U",
            "admin",
            "-d",
            "postgres",
            "-p",
            &port,
            "-XAtc",
        ]);
        run(command.arg(statement)).trim().to_owned()
    }

    pub(super) fn await_sql(&self, statement: &str, expected: &str) {
        await_true(&format!("{expected} from {statement}"), || {
            self.sql(statement) == expected
        });
    }

    pub(super) fn log(&self) -> PathBuf {
        self.directory.join("log")
    }

    pub(super) fn read_log(&self) -> String {
        fs::read_to_string(self.log()).unwrap()
    }

    pub(super) fn target(&self) -> Target {
        self.target_at(Ipv4Addr::LOCALHOST.into())
    }

    /// The server by another of its addresses, which the settings must let it listen on.
    pub(super) fn target_at(&self, address: IpAddr) -> Target {
        let mut target = target(SocketAddr::new(address, self.port));
        target.password = Some("secret".to_owned());
        target
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        let mut stop = self.owner("pg_ctl");
        stop.args(["stop", "--silent", "-w", "-m", "immediate", "-D"]);
        let _ = stop.arg(self.directory.join("data")).output();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

pub(super) fn run(command: &mut Command) -> String {
    // A server that goes on running must not keep the test's own output open.
    let output = command.output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

fn await_true(what: &str, is_so: impl Fn() -> bool) {
    let begin = clock::now();
    while !is_so() {
        assert!(
            begin.elapsed() < Duration::from_secs(20),
            "not within 20 s: {what}"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The programs of the newest PostgreSQL here, where Debian puts them.
fn binaries() -> PathBuf {
    let versions = fs::read_dir("/usr/lib/postgresql").expect("PostgreSQL is installed");
    let newest = versions.map(|version| version.unwrap().path()).max();
    newest.expect("a version of PostgreSQL").join("bin")
}

/// Makes two authorities, and a server certificate for 127.0.0.1 and ::1 signed by the first of them.
pub(super) fn write_certificates(directory: &Path) {
    let openssl = |arguments: &str| {
        run(Command::new("openssl")
            .args(arguments.split(' '))
            .current_dir(directory));
    };
    for name in ["authority", "stranger"] {
        let options = "req -new -x509 -days 2 -nodes -addext subjectAltName=IP:127.0.0.1";
        openssl(&format!(
            "{options} -subj /CN={name} -keyout {name}.key -out {name}.crt"
        ));
    }
    fs::write(
        directory.join("names"),
        "subjectAltName=IP:127.0.0.1,IP:::1\n",
    )
    .unwrap();
    openssl("req -new -nodes -subj /CN=server -keyout server.key -out server.csr");
    let authority = "-CA authority.crt -CAkey authority.key -CAcreateserial";
    let options = format!("x509 -req -in server.csr -days 2 -extfile names {authority}");
    openssl(&format!("{options} -out server.crt"));
    for key in ["server.key", "authority.key"] {
        run(Command::new("chown")
            .arg("postgres")
            .arg(directory.join(key)));
    }
}
