//! A question to a loop, which the loop itself answers: so whoever asks knows that it runs, or that it has done what it was
//! asked for. Never remembers an answer: one that comes too late is nobody's.

use tokio::sync::{mpsc, oneshot};

/// What the loop has of it: each question is a sender, and what is sent, or that it is dropped, is the answer.
pub type Asked = mpsc::Receiver<oneshot::Sender<()>>;

/// Whoever asks.
#[derive(Clone, Debug)]
pub struct Asker(mpsc::Sender<oneshot::Sender<()>>);

/// Both ends.
pub fn question() -> (Asker, Asked) {
    let (asker, asked) = mpsc::channel(1);
    (Asker(asker), asked)
}

impl Asker {
    /// Asks, and waits until the loop has answered; false where it has ended.
    pub async fn ask(&self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.0.send(answer).await.is_ok() && answered.await.is_ok()
    }
}
