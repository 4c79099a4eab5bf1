//! nginx, which answers every request with 200 and costs little.

use std::{fs, process::Child};

use super::support::{self, HeldPort, LIMIT, children, wait_until};

/// A running nginx; ends when it is dropped.
pub struct Nginx {
    child: Child,
    port: HeldPort,
}

impl Nginx {
    /// Starts it on a free port.
    pub async fn start() -> Self {
        let (port, folder) = (HeldPort::new(), children::folder("nginx"));
        let settings = format!(
            "daemon off; master_process off; error_log stderr; pid nginx.pid;
            events {{ worker_connections 4096; }}
            http {{
                access_log off; keepalive_requests 1000000000; client_max_body_size 0;
                client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi;
                scgi_temp_path scgi;
                server {{ listen {} reuseport; location / {{ return 200; }} location = /status {{ stub_status; }} }}
            }}",
            port.addr()
        );
        let file = folder.join("nginx.conf");
        fs::write(&file, settings).expect("the folder can be written");
        let mut command = children::command("nginx");
        command.arg("-p").arg(&folder).arg("-e").arg("stderr").arg("-c").arg(&file);
        let child = children::spawn(command, &folder.join("log"));
        let nginx = Self { child, port };
        let answers = async || tokio::net::TcpStream::connect(nginx.port.addr()).await.is_ok();
        wait_until("nginx to listen", LIMIT, answers).await;
        nginx
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://{}/", self.port.addr())
    }

    /// Requests that it has got so far, this one included.
    pub async fn requests(&self) -> u64 {
        let (_, page) = support::get(self.port.addr(), "/status").await.expect("nginx answers");
        // `accepts`, `handled` and `requests` stand in the third line.
        let counts = page.lines().nth(2).and_then(|line| line.split_whitespace().nth(2));
        counts.and_then(|count| count.parse().ok()).expect("nginx counts requests")
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        children::end(&mut self.child);
    }
}
