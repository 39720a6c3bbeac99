"""imclass: labelled images -> a trained, judged and exported classifier."""
