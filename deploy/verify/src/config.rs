//! What `millrace verify` is told.

use std::path::PathBuf;
use std::time::Duration;

use millrace_common::address::parse_servers;
use millrace_common::lake::{self, Lake, LakeError};
use millrace_common::types::LakeTarget;
use millrace_common::units::parse_duration;

/// Account for every raw offset of the pipeline that fills a lake. Reads the lake and the topics themselves.
#[derive(Debug, Clone, clap::Args)]
pub struct Config {
    /// Check this pipeline, by name or id, as the master at --page knows it; without it, the one that fills --lake.
    #[arg(long, value_name = "NAME")]
    pub pipeline: Option<String>,
    /// Where the master's page is.
    #[arg(long, default_value = "http://127.0.0.1:18080", value_name = "URL")]
    pub page: String,
    /// The lake: s3://bucket/prefix or file:///folder. It says which pipeline fills it.
    #[arg(
        long,
        env = "MILLRACE_LAKE",
        default_value = "s3://acme.eu-west-1.stg.data.lake/clickstream-data",
        value_name = "URL"
    )]
    pub lake: String,
    /// http://host:port of an S3 server that is not AWS's own.
    #[arg(long, env = "AWS_ENDPOINT_URL", value_name = "URL")]
    pub s3_endpoint: Option<String>,
    #[arg(long, env = "AWS_REGION", value_name = "REGION")]
    pub s3_region: Option<String>,
    /// host:port[,host:port…] of Kafka; by default what the pipeline's definition says.
    #[arg(long, value_parser = parse_servers, value_name = "HOST:PORT,…")]
    pub kafka: Option<String>,
    /// The generator's ledger: also say which acknowledged events are missing, doubled or altered.
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// Recompute what was found out about each event, too (user agent, page, referrer, country): every row and every
    /// enriched record must hold what this version finds.
    #[arg(long)]
    pub derived: bool,
    /// How long to wait for files that are committed and about to be published, while the pipeline runs.
    #[arg(long, value_parser = parse_duration, default_value = "30s", value_name = "TIME")]
    pub settle: Duration,
    /// Print the report as JSON.
    #[arg(long)]
    pub json: bool,
}

impl Config {
    /// A pipeline's lake, asked for with this process's own login where the usual variables hold one.
    pub(crate) fn with_login(&self, target: &LakeTarget) -> LakeTarget {
        let mut target = target.clone();
        if std::env::var_os("AWS_ACCESS_KEY_ID").is_some() {
            let usual = LakeTarget::new(target.url.clone());
            target.access_key_id = usual.access_key_id;
            target.secret_access_key = usual.secret_access_key;
        }
        target.endpoint = self.s3_endpoint.clone().or(target.endpoint);
        target.region = self.s3_region.clone().or(target.region);
        target
    }

    pub(crate) fn open_lake(&self) -> Result<Lake, LakeError> {
        lake::open(&LakeTarget {
            endpoint: self.s3_endpoint.clone(),
            region: self.s3_region.clone(),
            ..LakeTarget::new(self.lake.clone())
        })
    }
}
