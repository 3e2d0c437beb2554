//! Logs: to standard error, as text for people or JSON for collectors.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

/// Environment variable with the filter, in the form of `tracing`'s directives: `info`, `stillpoint=debug,kube=warn`.
pub const FILTER_VARIABLE: &str = "STILLPOINT_LOG";

/// Form of a log line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum LogFormat {
    /// One line of text per event.
    #[default]
    Text,
    /// One JSON object per event.
    Json,
}

/// Starts logging for the whole process.
///
/// # Errors
/// When the filter in [`FILTER_VARIABLE`] is wrong, or logging was started before.
pub fn init(format: LogFormat) -> anyhow::Result<()> {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).with_env_var(FILTER_VARIABLE);
    let filter = filter.try_from_env().or_else(|error| match std::env::var_os(FILTER_VARIABLE) {
        None => Ok(EnvFilter::default().add_directive(LevelFilter::INFO.into())),
        Some(_) => Err(anyhow::anyhow!("the log filter in {FILTER_VARIABLE} is wrong ({error}): try `info`")),
    })?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let started = match format {
        LogFormat::Text => subscriber.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => subscriber.json().flatten_event(true).try_init(),
    };
    started.map_err(|error| anyhow::anyhow!("cannot start logging: {error}"))
}
