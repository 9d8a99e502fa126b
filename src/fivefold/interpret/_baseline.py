"""The text baseline beside every probe: character n-grams with logistic regression, no model.

Topic words alone separate harmful prompts from ordinary ones almost perfectly, so a probe says something of the model
only by what it adds to this.
"""

from __future__ import annotations

import numpy as np

from fivefold.errors import MissingExtraError
from fivefold.interpret._linear import Array
from fivefold.interpret.data import Prompts


def baseline_scores(prompts: Prompts) -> Array:
    """Log-odds of every prompt [N] by a classifier of TF-IDF weighted n-grams (1 to 5 characters) fitted on train."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "local") from error
    texts = np.array([c.prompt.lower() for c in prompts.cases], dtype=object)
    train = prompts.of_split("train")
    vectorizer = TfidfVectorizer(analyzer="char", ngram_range=(1, 5), sublinear_tf=True)
    classifier = LogisticRegression(C=100, max_iter=2000)
    classifier.fit(vectorizer.fit_transform(texts[train]), prompts.positive[train])
    return np.asarray(classifier.decision_function(vectorizer.transform(texts)), dtype=np.float64)
