"""The names of the baselines, as in metrics.json.

    blind                 one constant answer for every image: `blind_prediction` and `best_constant_report`
    most_frequent_report  the most frequent training report
    random_report         a randomly drawn training report for each study
    nearest_image         the report of the training image with the most similar patch features
"""

NAMES = ("blind", "most_frequent_report", "random_report", "nearest_image")
BLIND, MOST_FREQUENT, RANDOM, NEAREST_IMAGE = NAMES
