//! Files that are read again at SIGHUP: certificates expire and keys change while the collector runs.

use millrace_common::shutdown::Shutdown;
use millrace_common::tls::Tls;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

use super::keys::WriteKeys;

#[derive(Debug, Clone)]
pub(super) struct Files {
    pub(super) tls: Option<Tls>,
    pub(super) keys: Option<WriteKeys>,
}

impl Files {
    pub(super) fn any(&self) -> bool {
        self.tls.is_some() || self.keys.is_some()
    }

    /// Reads the files at each SIGHUP until `shutdown` begins. What can't be read stays as it was.
    pub(super) async fn keep(self, shutdown: Shutdown) {
        let mut hang_up = match signal(SignalKind::hangup()) {
            Ok(hang_up) => hang_up,
            Err(error) => return error!(%error, "SIGHUP can't be listened for, the files are not read again"),
        };
        loop {
            tokio::select! {
                () = shutdown.begun() => return,
                _ = hang_up.recv() => {}
            }
            let files = self.clone();
            if let Err(panicked) = tokio::task::spawn_blocking(move || files.read()).await {
                error!(error = %panicked, "reading the files again failed");
            }
        }
    }

    fn read(&self) {
        match self.tls.as_ref().map(Tls::reload) {
            None => {}
            Some(Ok(())) => info!("certificate and key read again, for connections to come"),
            Some(Err(error)) => error!(%error, "the certificate stays as it was"),
        }
        match self.keys.as_ref().map(WriteKeys::reload) {
            None => {}
            Some(Ok(keys)) => info!(keys, "write keys read again"),
            Some(Err(error)) => error!(%error, "the write keys stay as they were"),
        }
    }
}
