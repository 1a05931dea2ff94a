//! nginx serving the same files: the physical limit of a GET.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use crate::Result;
use crate::peer::{Process, free_address};

/// A running nginx.
#[derive(Debug)]
pub struct Nginx {
    /// Where it listens.
    pub address: SocketAddr,
    _process: Process,
}

impl Nginx {
    /// Serves the files below `root` with sendfile and one worker a core.
    pub fn start(binary: &Path, root: &Path, work_dir: &Path) -> Result<Self> {
        let address = free_address()?;
        let dir = work_dir.join("nginx");
        fs::create_dir_all(dir.join("tmp"))?;
        let user = if rustix::process::geteuid().is_root() {
            "user root;"
        } else {
            ""
        };
        let dir_text = dir.display();
        let temp = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("  {name}_temp_path {dir_text}/tmp/{name};\n"))
            .concat();
        let config = format!(
            "{user}\nworker_processes auto;\npid {dir_text}/pid;\nerror_log {dir_text}/error.log;\n\
             daemon off;\nevents {{ worker_connections 1024; }}\nhttp {{\n{temp}  access_log off;\n\
             sendfile on;\n  tcp_nopush on;\n  tcp_nodelay on;\n  keepalive_requests 100000000;\n\
             default_type application/octet-stream;\n\
             server {{ listen {address}; root {}; }}\n}}\n",
            root.display()
        );
        let config_path = dir.join("nginx.conf");
        fs::write(&config_path, config)?;
        let mut command = Command::new(binary);
        command.arg("-p").arg(&dir).arg("-c").arg(&config_path);
        Ok(Self {
            address,
            _process: Process::start(command, &dir.join("out.log"), address)?,
        })
    }
}

/// A plain GET, with no signature.
pub fn get(address: SocketAddr, path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n").into_bytes()
}
