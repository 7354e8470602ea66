"""Classifies a video file, or camera 0, frame by frame: python onnx_python.py model/step.onnx clip.avi

Needs no ttrnn: pip install numpy onnxruntime opencv-python
"""

import json
import sys

import cv2
import numpy as np
import onnxruntime

model, video = sys.argv[1:]
session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
about = session.get_modelmeta().custom_metadata_map
classes, size = json.loads(about["classes"]), (int(about["width"]), int(about["height"]))
colours = cv2.COLOR_BGR2RGB if about["channels"] == "3" else cv2.COLOR_BGR2GRAY
# A stream starts from zeros; each h_n, c_n and so on is the h_0, c_0 of the next frame.
state = {}
for part in session.get_inputs():
    kind = np.uint8 if part.type == "tensor(uint8)" else np.float32
    state[part.name] = np.zeros([1 if size == "batch" else size for size in part.shape], kind)
del state["frame"]
names = ["scores", *(name.replace("_0", "_n") for name in state)]
capture = cv2.VideoCapture(int(video) if video.isdigit() else video)
while (read := capture.read())[0]:
    frame = cv2.cvtColor(cv2.resize(read[1], size, interpolation=cv2.INTER_AREA), colours)
    scores, *after = session.run(names, {"frame": frame.reshape(1, size[1], size[0], -1), **state})
    state = dict(zip(state, after, strict=True))
    print(f"{classes[scores[0].argmax()]} {scores[0].max():.3f}")
