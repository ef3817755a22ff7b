"""``python -m helpers.speak.train_lens`` (``make lens``) trains the tuned lens of the course LM, in minutes."""

from helpers.models import COURSE_LM, load_model
from helpers.speak.lens import lens_kl
from helpers.speak.tuned_lens import FOLDER, TRAINING_SEED, WEIGHTS, load_tuned_lens, save_tuned_lens, train_tuned_lens, training_texts
from helpers.texts import held_out_texts

STEPS, DOCUMENTS, EACH, JUDGED = 1000, 6000, 4, 300


def main() -> None:
    """Trains the tuned lens of the course LM, in minutes, and says how far both lenses are from the model on other texts."""
    model = load_model(COURSE_LM, device="cpu")
    lens = train_tuned_lens(model, training_texts(model, DOCUMENTS), STEPS, each=EACH)
    folder = save_tuned_lens(lens, FOLDER / COURSE_LM, model=COURSE_LM, steps=STEPS, documents=DOCUMENTS, seed=TRAINING_SEED)
    print(lens_kl(model, held_out_texts(model, JUDGED), load_tuned_lens(folder)).table())
    print(f"{folder} has {(folder / WEIGHTS).stat().st_size / 1e6:.1f} MB.")


if __name__ == "__main__":
    main()
