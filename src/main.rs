//! `bundlehook`: one program, several roles and tools.

use std::process::ExitCode;

use bundlehook::{
    config::{self, Command, Exit},
    tools,
};

fn main() -> ExitCode {
    let cli = match config::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(exit) => return leave(&exit),
    };
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => return fail(&error.into()),
    };
    let done = runtime.block_on(run(cli.command));
    // Nothing that still blocks may hold up the end.
    runtime.shutdown_timeout(std::time::Duration::from_secs(1));
    done.map_or_else(|error| fail(&error), |()| ExitCode::SUCCESS)
}

async fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Topics(command) => tools::topics::run(command.kafka, command.topics).await,
        Command::Produce(command) => {
            tools::produce::run(command.kafka, command.produce, asked_to_stop()).await
        }
        Command::Receive(command) => tools::receive::run(command.receive, asked_to_stop()).await,
        _ => anyhow::bail!("this role is not there yet"),
    }
}

/// Resolves with SIGINT (Ctrl-C) or SIGTERM.
async fn asked_to_stop() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => signal.recv().await,
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated => {}
    }
}

fn leave(exit: &Exit) -> ExitCode {
    if exit.code == 0 {
        print!("{}", exit.text);
    } else {
        eprint!("{}", exit.text);
    }
    ExitCode::from(u8::try_from(exit.code).unwrap_or(1))
}

fn fail(error: &anyhow::Error) -> ExitCode {
    eprintln!("error: {error:#}");
    ExitCode::FAILURE
}
