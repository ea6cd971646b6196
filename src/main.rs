use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = hyperlift::cli::Cli::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => {
            eprintln!("hyperlift: cannot start: {e}");
            return ExitCode::FAILURE;
        }
    };
    let code = runtime.block_on(hyperlift::run::run(cli));
    // A thread that waits for a key must not keep the program.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    ExitCode::from(code)
}
