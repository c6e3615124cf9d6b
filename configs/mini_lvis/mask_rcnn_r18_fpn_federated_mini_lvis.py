_base_ = "./mask_rcnn_r18_fpn_sigmoid_mini_lvis.py"
# The 4 images of a process show 8 of the 60 categories annotated, on average; so some 17 are drawn.
model = dict(
    roi_head=dict(bbox_head=dict(loss_cls=dict(type="FederatedLoss", num_sampled=25, power=0.5)))
)
