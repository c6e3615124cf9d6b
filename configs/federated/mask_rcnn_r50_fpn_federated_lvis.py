_base_ = "../sigmoid/mask_rcnn_r50_fpn_sigmoid_lvis.py"
# Of the categories, 50 count in a batch: those it has, and others drawn by frequency ** 0.5.
model = dict(
    roi_head=dict(bbox_head=dict(loss_cls=dict(type="FederatedLoss", num_sampled=50, power=0.5)))
)
